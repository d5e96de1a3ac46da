//! Parts that keep their functions or ports apart without an Access Control Services capability, or with an
//! odd one.
//!
//! That is what each part's vendor has said, mostly to Linux, whose drivers/pci/quirks.c (6.16,
//! `pci_dev_acs_enabled`) collects it; the lines name the function there, and the vendor's own words where
//! there are any. What is not here, and has no capability, isolates nothing. AMD's southbridges are not here:
//! they do so in machines with AMD's IOMMU only.

use crate::pci::port::PortType;

/// What such a part does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The functions of a device do not reach each other, or nothing but the memory that the unit translates.
    Apart,
    /// The root ports of an Intel PCH, which stop their peers where the chipset is told to: see
    /// [`PchPeers`](crate::pci::PchPeers).
    PchPort,
    /// Root ports whose ACS registers are 32 bits wide: the control register is at offset 8 instead of 6.
    WideRegisters,
}

#[derive(Clone, Copy)]
enum Of {
    Any,
    RootPorts,
    Ports,
    Integrated,
}

struct Line {
    vendor: u16,
    /// Device ids, both included, and the distance from one to the next.
    first: u16,
    last: u16,
    step: u16,
    of: Of,
    is: Part,
}

const fn ids(vendor: u16, first: u16, last: u16, of: Of, is: Part) -> Line {
    Line { vendor, first, last, step: 1, of, is }
}

const fn even(vendor: u16, first: u16, last: u16, of: Of, is: Part) -> Line {
    Line { vendor, first, last, step: 2, of, is }
}

const fn functions(vendor: u16, device: u16) -> Line {
    ids(vendor, device, device, Of::Any, Part::Apart)
}

const fn root_ports(vendor: u16, device: u16) -> Line {
    ids(vendor, device, device, Of::RootPorts, Part::Apart)
}

const SOLARFLARE: u16 = 0x1924;
const INTEL: u16 = 0x8086;
const QUALCOMM: u16 = 0x17cb;
const CAVIUM: u16 = 0x177d;
const AMPERE: u16 = 0x1def;
const BROADCOM: u16 = 0x14e4;
const LOONGSON: u16 = 0x0014;
const ZHAOXIN: u16 = 0x1d17;
const NXP: u16 = 0x1957;
const WANGXUN: u16 = 0x8088;

#[rustfmt::skip]
static LINES: &[Line] = &[
    // Network controllers whose functions do no peer-to-peer, by their vendors: pci_quirk_mf_endpoint_acs.
    functions(SOLARFLARE, 0x0903), // SFC9120
    functions(SOLARFLARE, 0x0923), // SFC9140
    functions(SOLARFLARE, 0x0a03), // SFC9220
    functions(INTEL, 0x10c6), // 82598
    functions(INTEL, 0x10db), // 82598
    functions(INTEL, 0x10dd), // 82598
    functions(INTEL, 0x10e1), // 82598
    functions(INTEL, 0x10f1), // 82598
    ids(INTEL, 0x10f7, 0x10fc, Of::Any, Part::Apart), // 82599
    functions(INTEL, 0x1507), // 82599
    functions(INTEL, 0x1514), // 82599
    functions(INTEL, 0x151c), // 82599
    ids(INTEL, 0x1529, 0x152a, Of::Any, Part::Apart), // 82599
    functions(INTEL, 0x154d), // 82599
    functions(INTEL, 0x154f), // 82599
    functions(INTEL, 0x1551), // 82599
    functions(INTEL, 0x1558), // 82599
    functions(INTEL, 0x1509), // 82580
    ids(INTEL, 0x150e, 0x1511, Of::Any, Part::Apart), // 82580
    functions(INTEL, 0x1516), // 82580
    functions(INTEL, 0x1527), // 82580
    functions(INTEL, 0x10c9), // 82576
    ids(INTEL, 0x10e6, 0x10e8, Of::Any, Part::Apart), // 82576
    functions(INTEL, 0x150a), // 82576
    functions(INTEL, 0x150d), // 82576
    functions(INTEL, 0x1518), // 82576
    functions(INTEL, 0x1526), // 82576
    functions(INTEL, 0x10a7), // 82575
    functions(INTEL, 0x10a9), // 82575
    functions(INTEL, 0x10d6), // 82575
    ids(INTEL, 0x1521, 0x1524, Of::Any, Part::Apart), // I350
    // 82571; those with four ports have a switch that does not isolate.
    ids(INTEL, 0x105e, 0x1060, Of::Any, Part::Apart),
    functions(INTEL, 0x10d9),
    ids(INTEL, 0x15b7, 0x15b8, Of::Any, Part::Apart), // I219
    // Intel's integrated endpoints reach each other by translated addresses only: VT-d 3.16, "Root-Complex
    // Peer to Peer Considerations"; pci_quirk_rciep_acs.
    ids(INTEL, 0, 0xffff, Of::Integrated, Part::Apart),
    // Qualcomm QDF2xxx and HXT SD4800: each root port is a root complex of its own; pci_quirk_qcom_rp_acs.
    ids(QUALCOMM, 0x0400, 0x0401, Of::RootPorts, Part::Apart),
    root_ports(0x1dbf, 0x0401),
    // Intel PCHs before the 100 series, as Intel lists them: Red Hat bug 1037684;
    // pci_quirk_intel_pch_acs_ids.
    ids(INTEL, 0x3b42, 0x3b51, Of::RootPorts, Part::PchPort), // Ibex Peak (5 series)
    ids(INTEL, 0x1c10, 0x1c1f, Of::RootPorts, Part::PchPort), // Cougar Point (6 series)
    ids(INTEL, 0x1e10, 0x1e1f, Of::RootPorts, Part::PchPort), // Panther Point (7 series)
    ids(INTEL, 0x8c10, 0x8c1f, Of::RootPorts, Part::PchPort), // Lynx Point (8 series)
    ids(INTEL, 0x9c10, 0x9c1b, Of::RootPorts, Part::PchPort), // Lynx Point-LP
    ids(INTEL, 0x9c90, 0x9c9b, Of::RootPorts, Part::PchPort), // Wildcat Point-LP
    even(INTEL, 0x1d10, 0x1d1e, Of::RootPorts, Part::PchPort), // Patsburg (X79)
    ids(INTEL, 0x8d10, 0x8d1e, Of::RootPorts, Part::PchPort), // Wellsburg (X99)
    even(INTEL, 0x8c90, 0x8c9e, Of::RootPorts, Part::PchPort), // Wildcat Point (9 series)
    // Intel 100 and 200 series, errata 23 and 22 of their specification updates; the mobile ones, erratum 22
    // of 334660; pci_quirk_intel_spt_pch_acs.
    ids(INTEL, 0xa110, 0xa11f, Of::RootPorts, Part::WideRegisters), // Sunrise Point-H 1 to 16
    ids(INTEL, 0xa167, 0xa16a, Of::RootPorts, Part::WideRegisters), // Sunrise Point-H 17 to 20
    ids(INTEL, 0xa290, 0xa29f, Of::RootPorts, Part::WideRegisters), // Union Point 1 to 16
    ids(INTEL, 0xa2e7, 0xa2ee, Of::RootPorts, Part::WideRegisters), // Union Point 17 to 24
    ids(INTEL, 0x9d10, 0x9d1b, Of::RootPorts, Part::WideRegisters), // Sunrise Point-LP
    // Emulex: pci_quirk_mf_endpoint_acs.
    functions(0x19a2, 0x0710), // BE3-R
    functions(0x10df, 0x0720), // Skyhawk-R
    // Cavium root ports protect as if SV, RR, CR and UF were on: pci_quirk_cavium_acs.
    ids(CAVIUM, 0xa000, 0xa7ff, Of::RootPorts, Part::Apart), // ThunderX
    root_ports(CAVIUM, 0xaf84), // ThunderX2
    root_ports(CAVIUM, 0xb884), // ThunderX3
    functions(CAVIUM, 0xa026), // pci_quirk_mf_endpoint_acs
    functions(CAVIUM, 0xa059), // the same
    functions(CAVIUM, 0xa060), // the same
    // APM X-Gene and Ampere: no transactions between root ports; pci_quirk_xgene_acs.
    root_ports(0x10e8, 0xe004),
    ids(AMPERE, 0xe005, 0xe00c, Of::RootPorts, Part::Apart),
    // Broadcom NetXtreme-C and -E: pci_quirk_mf_endpoint_acs.
    functions(BROADCOM, 0x16d7),
    ids(BROADCOM, 0x1750, 0x1752, Of::Any, Part::Apart),
    ids(BROADCOM, 0x1760, 0x1763, Of::Any, Part::Apart),
    // Broadcom iProc: no transactions between root ports; pci_quirk_brcm_acs.
    root_ports(BROADCOM, 0xd714),
    // Loongson: no transactions between root ports; pci_quirk_loongson_acs.
    root_ports(LOONGSON, 0x3c09),
    root_ports(LOONGSON, 0x3c19),
    root_ports(LOONGSON, 0x3c29),
    root_ports(LOONGSON, 0x7a09),
    root_ports(LOONGSON, 0x7a19),
    root_ports(LOONGSON, 0x7a29),
    root_ports(LOONGSON, 0x7a39),
    root_ports(LOONGSON, 0x7a49),
    root_ports(LOONGSON, 0x7a59),
    root_ports(LOONGSON, 0x7a69),
    // Amazon's Annapurna Labs: root ports cannot send to each other; pci_quirk_al_acs.
    root_ports(0x1c36, 0x0031),
    // Zhaoxin: pci_quirk_mf_endpoint_acs, and ports that block their peers, pci_quirk_zhaoxin_pcie_ports_acs.
    functions(ZHAOXIN, 0x3038),
    functions(ZHAOXIN, 0x3104),
    functions(ZHAOXIN, 0x9083),
    ids(ZHAOXIN, 0x0710, 0x071e, Of::Ports, Part::Apart),
    ids(ZHAOXIN, 0x0721, 0x0721, Of::Ports, Part::Apart),
    ids(ZHAOXIN, 0x0723, 0x0752, Of::Ports, Part::Apart),
    // NXP LX2160A and its kin: each root port is a root complex of its own; pci_quirk_nxp_rp_acs.
    ids(NXP, 0x8d80, 0x8d83, Of::RootPorts, Part::Apart),
    ids(NXP, 0x8d88, 0x8d8b, Of::RootPorts, Part::Apart),
    ids(NXP, 0x8d90, 0x8d93, Of::RootPorts, Part::Apart),
    ids(NXP, 0x8d98, 0x8d9b, Of::RootPorts, Part::Apart),
    ids(NXP, 0x8da0, 0x8da1, Of::RootPorts, Part::Apart),
    ids(NXP, 0x8da8, 0x8da9, Of::RootPorts, Part::Apart),
    ids(NXP, 0x8db0, 0x8db1, Of::RootPorts, Part::Apart),
    ids(NXP, 0x8db8, 0x8db9, Of::RootPorts, Part::Apart),
    // Wangxun network controllers send what is between their functions upstream: pci_quirk_wangxun_nic_acs.
    ids(WANGXUN, 0x0100, 0x010f, Of::Any, Part::Apart), // EM
    functions(WANGXUN, 0x1001), // SP
    functions(WANGXUN, 0x2001), // SP
    functions(WANGXUN, 0x5010), // AML
    functions(WANGXUN, 0x5025), // AML
    functions(WANGXUN, 0x5040), // AML
    functions(WANGXUN, 0x5110), // AML
    functions(WANGXUN, 0x5125), // AML
    functions(WANGXUN, 0x5140), // AML
];

impl Line {
    fn covers(&self, (vendor, device): (u16, u16), port: Option<PortType>) -> bool {
        let of = match self.of {
            Of::Any => true,
            Of::RootPorts => port == Some(PortType::RootPort),
            Of::Ports => matches!(port, Some(PortType::RootPort | PortType::Downstream)),
            Of::Integrated => port == Some(PortType::Integrated),
        };
        let distance = device.checked_sub(self.first);
        of && self.vendor == vendor
            && device <= self.last
            && distance.and_then(|distance| distance.checked_rem(self.step)) == Some(0)
    }
}

/// The part that a function is, by its vendor and device id and what it is on PCI Express.
pub(crate) fn part(id: (u16, u16), port: Option<PortType>) -> Option<Part> {
    LINES.iter().find(|line| line.covers(id, port)).map(|line| line.is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_hold_for_what_they_name() {
        let root = Some(PortType::RootPort);
        assert_eq!(part((INTEL, 0x1c10), root), Some(Part::PchPort));
        assert_eq!(part((INTEL, 0x1c10), Some(PortType::Downstream)), None);
        assert_eq!(part((INTEL, 0x1c0f), root), None);
        assert_eq!(part((INTEL, 0x8c9e), root), Some(Part::PchPort));
        assert_eq!(part((INTEL, 0x8c9d), root), None, "every other number is something else");
        assert_eq!(part((INTEL, 0xa110), root), Some(Part::WideRegisters));
        assert_eq!(part((INTEL, 0x1234), Some(PortType::Integrated)), Some(Part::Apart));
        assert_eq!(part((INTEL, 0x1234), None), None);
        assert_eq!(part((INTEL, 0x10c9), Some(PortType::Endpoint)), Some(Part::Apart));
        assert_eq!(part((ZHAOXIN, 0x0722), root), None);
        assert_eq!(part((ZHAOXIN, 0x0752), Some(PortType::Downstream)), Some(Part::Apart));
        assert_eq!(part((0x1002, 0x4384), None), None, "AMD's bridge, without AMD's IOMMU");
        assert_eq!(part((NXP, 0x8da2), root), None);
    }

    #[test]
    fn every_line_can_be_met_and_those_about_one_part_agree() {
        let ports = [None, Some(PortType::RootPort), Some(PortType::Downstream), Some(PortType::Integrated)];
        for line in LINES {
            assert!(line.first <= line.last && (line.last - line.first).is_multiple_of(line.step));
            for device in [line.first, line.last] {
                let id = (line.vendor, device);
                let met = ports.iter().filter(|port| line.covers(id, **port));
                assert!(met.clone().count() > 0 && met.clone().all(|&port| part(id, port) == Some(line.is)));
            }
        }
    }
}
