//! The steps, the same for all hardware that walks.

mod access;
mod change;
mod pages;

use alloc::vec;
use alloc::vec::Vec;

use super::trial::World;
use crate::scenario::leaks;
use crate::scenario::step::{Context, Step};
use crate::walker::Walker;

/// The steps in order.
pub fn all<W: Walker>() -> Vec<Step<World<W>>> {
    let mut steps = vec![
        Step { name: "page-4k", title: "a page of 4 KiB leads to its frame", run: pages::small },
        Step { name: "page-2m", title: "a page of 2 MiB leads to its frames", run: pages::large },
        Step { name: "page-1g", title: "a page of 1 GiB leads to its frames", run: pages::huge },
        Step {
            name: "addresses",
            title: "every bit of a guest-physical address counts, beyond 4 and 512 GiB too",
            run: pages::addresses,
        },
        Step {
            name: "edges",
            title: "a range that begins and ends off the large pages is reached to its last byte, \
                    and no further",
            run: pages::edges,
        },
        Step {
            name: "holes",
            title: "where nothing is mapped, at any level, accesses are stopped",
            run: pages::holes,
        },
        Step {
            name: "small-pages",
            title: "a table kept to pages of 4 KiB leads to the same frames",
            run: pages::without_large,
        },
        Step {
            name: "read-only",
            title: "read-only memory can be read, and a write is stopped",
            run: access::read_only,
        },
        Step {
            name: "no-execute",
            title: "memory without execute access can be read and written",
            run: access::no_execute,
        },
        Step { name: "accesses", title: "every p2m access grants what it says", run: access::accesses },
        Step { name: "types", title: "every p2m type grants what it says", run: access::types },
        Step {
            name: "log-dirty",
            title: "writes are stopped while they are logged, and not before or after",
            run: access::log_dirty,
        },
        Step { name: "unmap", title: "what is unmapped or moved is reached no more", run: change::unmap },
        Step {
            name: "cached",
            title: "what the unit has cached is used until it is invalidated, and then no more",
            run: change::cached,
        },
        Step {
            name: "split",
            title: "a page that is cut and made whole again leads to the same frames",
            run: change::split,
        },
        Step {
            name: "identity",
            title: "a reserved region is reached 1:1 while it is mapped",
            run: change::identity,
        },
        Step {
            name: "marks",
            title: "the processor marks what was used and what was written",
            run: change::marks,
        },
        Step {
            name: "random",
            title: "after each of many updates the hardware sees what the table says",
            run: change::random,
        },
        Step {
            name: "format-options",
            title: "a format's other choices grant what the table says too",
            run: access::formats,
        },
    ];
    if W::FIVE_LEVELS {
        steps.push(Step {
            name: "five-levels",
            title: "a table of five levels leads to its frames",
            run: pages::five_levels,
        });
    }
    // What a device behind an IOMMU does not do, and what processors do not.
    let absent: &[&str] = if W::DEVICE { &["no-execute", "marks"] } else { &["cached"] };
    steps.retain(|step| !absent.contains(&step.name) && (W::FORMATS || step.name != "format-options"));
    steps.push(leaks::step(|world: &mut World<W>| leaks::check(world.before, world.broken("leaks"))));
    steps
}
