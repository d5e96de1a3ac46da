//! Further requester ids of a function: phantom functions, and virtual functions.

use testkit::bus::{Bus, Function, port};
use xen_iommu::Sbdf;
use xen_iommu::pci::{FunctionIds, enabled_virtual_functions, phantom_functions, virtual_functions};

use crate::kit::at;

const FUNCTION: Sbdf = Sbdf::new(1, 2, 3, 1);

fn bus(function: Function) -> Bus {
    Bus::new().with(FUNCTION, function)
}

fn express() -> Function {
    // A power management capability comes first.
    Function::endpoint().capability(0x01, &[0]).express(port::ENDPOINT)
}

#[test]
fn phantom_functions_are_those_switched_on() {
    let numbers = |number: u8, config: Function| {
        let function = Sbdf::new(1, 2, 3, number);
        let found = phantom_functions(function, &Bus::new().with(function, config));
        found.map(|ids| {
            let all: Vec<_> = ids.iter().collect();
            assert!(all.iter().all(|id| (id.segment(), id.bus(), id.device()) == (1, 2, 3)), "{all:?}");
            all.into_iter().map(Sbdf::function).collect::<Vec<_>>()
        })
    };
    assert_eq!(numbers(1, express().phantom(1)), Some(vec![5]));
    assert_eq!(numbers(3, express().phantom(1)), Some(vec![7]));
    assert_eq!(numbers(1, express().phantom(2)), Some(vec![3, 5, 7]));
    assert_eq!(numbers(0, express().phantom(3)), Some((1..8).collect()));
    // A function number that would be one of the phantoms' own.
    assert_eq!(numbers(4, express().phantom(1)), None);
    assert_eq!(numbers(2, express().phantom(2)), None);
    assert_eq!(numbers(1, express().phantom(3)), None);
    // Of the device capabilities bits 4:3 are those, of the device control bit 9 switches them on.
    assert_eq!(numbers(1, express().phantom(1).set(0x48, 0xffff_fdff)), None, "off");
    assert_eq!(numbers(1, express().phantom(1).set(0x44, 0xffff_ffe7)), None, "none");
    assert_eq!(numbers(1, express().phantom(1).set(0x44, 0xffff_ffef)), Some(vec![5]));
    assert_eq!(numbers(1, Function::endpoint()), None, "not on PCI Express");
    assert_eq!(phantom_functions(FUNCTION, &Bus::new()), None);
}

/// What Xen's `pci-phantom=` says, too: the distance of a device's phantom functions.
#[test]
fn a_stride_of_phantom_functions_is_1_2_or_4() {
    let numbers = |stride| FunctionIds::phantom(at(0, 2, 0), stride).map(|ids| ids.iter().count());
    let all: Vec<_> = (0..=8).map(numbers).collect();
    assert_eq!(all, [None, Some(7), Some(3), None, Some(1), None, None, None, None]);
    let first = |stride| FunctionIds::phantom(at(0, 2, 0), stride).unwrap().iter().next();
    assert_eq!([1, 2, 4].map(first), [1, 2, 4].map(|number| Some(at(0, 2, number))));
}

#[test]
fn virtual_functions_cross_buses() {
    let of = |total, offset, stride| {
        // The total is what there may be, whatever is enabled.
        virtual_functions(FUNCTION, &bus(express().ari(0).sr_iov(total, 3, offset, stride)))
    };
    let found = of(64, 0x80, 2).unwrap();
    let ids: Vec<_> = found.iter().collect();
    // 02:03.1 is 0x219: from 0x299 on, by twos.
    assert_eq!((ids.len(), ids[0], ids[63]), (64, Sbdf::new(1, 2, 0x13, 1), Sbdf::new(1, 3, 2, 7)));
    for id in 0..=u16::MAX {
        let source = Sbdf::from_raw(1 << 16 | u32::from(id));
        assert_eq!(found.contains(source), ids.contains(&source), "{source}");
    }
    assert!(!found.contains(Sbdf::new(0, 2, 0x13, 1)), "another segment");
    assert_eq!(of(1, 0x80, 0).unwrap().iter().collect::<Vec<_>>(), [Sbdf::new(1, 2, 0x13, 1)]);
    for (total, offset, stride) in [(0, 0x80, 2), (4, 0, 2), (4, 0x80, 0)] {
        assert_eq!(of(total, offset, stride), None, "{total} at {offset:#x} by {stride}");
    }
    assert_eq!(virtual_functions(FUNCTION, &bus(express())), None);
}

#[test]
fn ids_of_one_or_none() {
    let ids = |offset, stride, count| FunctionIds { function: at(1, 0, 0), offset, stride, count };
    // Without a stride there is one place.
    let one = ids(8, 0, 1);
    assert!(one.contains(at(1, 1, 0)) && !one.contains(at(1, 1, 1)) && !one.contains(at(1, 0, 0)));
    for stride in [0, 1] {
        let none = ids(8, stride, 0);
        assert!(none.iter().next().is_none() && !none.contains(at(1, 1, 0)));
    }
}

#[test]
fn virtual_functions_are_there_when_they_are_enabled() {
    let count = |control: u32, number: u16| {
        let config = express().sr_iov(8, number, 0x80, 1).set(0x108, control);
        enabled_virtual_functions(FUNCTION, &bus(config)).map(|ids| ids.iter().count())
    };
    assert_eq!((count(1, 3), count(0, 3), count(0xffff_fffe, 3), count(1, 0)), (Some(3), None, None, None));
    assert_eq!(count(0x11, 9), Some(8), "there are no more than the total");
    assert_eq!(enabled_virtual_functions(FUNCTION, &bus(express())), None);
    let lapping = express().sr_iov(0xffff, 0xffff, 0x80, 0x1000);
    let ids: Vec<_> = enabled_virtual_functions(FUNCTION, &bus(lapping)).unwrap().iter().collect();
    assert_eq!((ids.len(), ids[15]), (16, Sbdf::new(1, 0xf2, 0x13, 1)), "all the way round, once");
}

#[test]
fn lists_with_loops_end() {
    let looping = |second| Function::endpoint().set(4, 1 << 20).set(0x34, 0x40).set(0x40, second);
    assert_eq!(phantom_functions(FUNCTION, &bus(looping(0x4001))), None);
    let extended = looping(0x4010).set(0x100, 0x1001_0001);
    assert_eq!(virtual_functions(FUNCTION, &bus(extended)), None);
}
