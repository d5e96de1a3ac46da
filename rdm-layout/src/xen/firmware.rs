//! What the firmware of a Xen guest needs, as tables. Each line has its source; paths are Xen's.

use p2m::Gfn;

use crate::e820::{ACPI, RESERVED};
use crate::machine::{Backing, Firmware, Fixed, Module, ModuleMemory};

/// A row of a table: from frame to frame, exclusive.
const fn row(name: &'static str, start: u64, end: u64, backing: Backing, e820: Option<u32>) -> Fixed {
    Fixed { name, start: Gfn::new(start), frames: end.saturating_sub(start), backing, e820, yields: false }
}

/// A row that a region may lie in: what is there has other places, or goes without.
const fn yields(row: Fixed) -> Fixed {
    Fixed { yields: true, ..row }
}

/// Text and graphics memory of a VGA; a guest without one has nothing there (`setup_guest` in
/// tools/libs/guest/xg_dom_x86.c leaves it out).
const VGA: Fixed = yields(row("VGA memory", 0xa0, 0xc0, Backing::Device, None));
/// ACPI_INFO_PHYSICAL_ADDRESS, tools/firmware/hvmloader/config.h; the DSDT has this address in it
/// (tools/libacpi/dsdt.asl).
const ACPI_INFO: Fixed = row("hvmloader's ACPI info page", 0xf_c000, 0xf_c001, Backing::Own, Some(RESERVED));
/// IOAPIC_BASE_ADDRESS, tools/firmware/hvmloader/config.h.
const IOAPIC: Fixed = row("I/O APIC", 0xf_ec00, 0xf_ec01, Backing::Device, None);
/// HPET_BASE_ADDRESS, xen/arch/x86/hvm/hpet.c.
const HPET: Fixed = row("HPET", 0xf_ed00, 0xf_ed01, Backing::Device, None);
/// ACPI_TIS_HDR_ADDRESS, tools/firmware/hvmloader/config.h: the five pages of a TPM's localities.
const TPM: Fixed = yields(row("TPM", 0xf_ed40, 0xf_ed45, Backing::Device, None));
/// LAPIC_BASE_ADDRESS, tools/firmware/hvmloader/config.h; MSIs go to the megabyte from there on, whatever
/// lies there.
const LAPIC: Fixed = row("local APIC and MSI addresses", 0xf_ee00, 0xf_ef00, Backing::Device, None);
/// The pages up to X86_HVM_END_SPECIAL_REGION, tools/include/xenctrl_dom.h: eight of ioreq servers and eight
/// special ones, with Xenstore, console, and the identity-map page table that real mode runs on without
/// unrestricted guests (tools/libs/guest/xg_dom_x86.c).
const SPECIAL: Fixed =
    row("special pages (identity map, ioreq, Xenstore)", 0xf_eff0, 0xf_f000, Backing::Own, Some(RESERVED));
/// The 2 MiB of an OVMF image below 4 GiB (tools/firmware/hvmloader/ovmf.c); a larger image is a row of its
/// own in `filled`.
const OVMF_IMAGE: Fixed = row("OVMF's image", 0xf_fe00, 0x10_0000, Backing::Own, Some(RESERVED));
/// LOWCHUNK_BEGIN, tools/firmware/hvmloader/ovmf.c: the image's end, where a processor starts in real mode.
const OVMF_RESET: Fixed = row("OVMF's reset code", 0xf0, 0x100, Backing::Ram, Some(RESERVED));
/// OVMF_INFO_PHYSICAL_ADDRESS, tools/firmware/hvmloader/ovmf.c.
const OVMF_INFO: Fixed = row("OVMF's info page", 0x1, 0x2, Backing::Ram, None);
/// MEMFD, OvmfPkg/OvmfXen.fdf of edk2: page tables, stack and unpacked volumes from 8 MiB on, 11 MiB of them,
/// and 13 in OvmfPkgX64.fdf.
const OVMF_VOLUMES: Fixed = row("OVMF's unpacked volumes", 0x800, 0x1500, Backing::Ram, None);
/// Interrupt vectors and BIOS data area: docs/Memory_Model.md of SeaBIOS.
const BIOS_DATA: Fixed = row("BIOS data", 0x0, 0x1, Backing::Ram, None);
/// The boot sector's place, 0x7c00: the same.
const BOOT_SECTOR: Fixed = row("boot sector", 0x7, 0x8, Backing::Ram, None);
/// The extended BIOS data area at the end of conventional memory: the same.
const EBDA: Fixed = row("extended BIOS data", 0x9f, 0xa0, Backing::Ram, Some(RESERVED));
/// Option ROMs: the same. One for which there is no room is not run.
const OPTION_ROMS: Fixed = yields(row("option ROMs", 0xc0, 0xe0, Backing::Ram, Some(RESERVED)));
/// An image of 128 KiB, which ends at 1 MiB (tools/firmware/hvmloader/seabios.c).
const BIOS_IMAGE: Fixed = row("BIOS", 0xe0, 0x100, Backing::Ram, Some(RESERVED));
/// The same at the end of 4 GiB, where a processor starts.
const BIOS_RESET: Fixed = row("BIOS's reset code", 0xf_ffe0, 0x10_0000, Backing::Own, Some(RESERVED));

/// hvmloader's ACPI tables: it has room for 1 MiB from ACPI_INFO on (ACPI_MEMORY_DYNAMIC_START to
/// RESERVED_MEMORY_DYNAMIC_START, tools/firmware/hvmloader/config.h), and a firmware that is told where to
/// put them has room up to the I/O APIC.
const ACPI_TABLES: Module = movable("ACPI tables", 255, ACPI);
/// SMBIOS's tables: 128 KiB is more than they take (tools/firmware/hvmloader/smbios.c).
const SMBIOS: Module = movable("SMBIOS tables", 32, RESERVED);
/// HVM_PARAM_VM86_TSS_SIZED: a task state segment for virtual-8086 mode, below 4 GiB, which must not cross a
/// page's end (`pvh_setup_vmx_realmode_helpers` in xen/arch/x86/hvm/dom0_build.c).
const VM86_TSS: Module = movable("VM86 task state segment", 1, RESERVED);

const fn movable(name: &'static str, frames: u64, kind: u32) -> Module {
    let (from, below) = (Gfn::new(0xf_c001), Gfn::new(0xf_ec00));
    Module { name, frames, align: 1, from, below, memory: ModuleMemory::Own(kind) }
}

/// Unmodified hvmloader, with SeaBIOS, ROMBIOS or OVMF: for [`Mode::TwoRange`](crate::Mode::TwoRange). It
/// takes all of these as they are: a region in one of them stops it, or is overwritten.
///
/// Low memory ends at 2 MiB or above, or it stops (`build_e820_table` in tools/firmware/hvmloader/e820.c),
/// which writes the map below 1 MiB itself (`GUEST_LOW_MEM_START_DEFAULT` in tools/libs/light/libxl_x86.c).
pub const HVMLOADER: Firmware<'static> = Firmware {
    fixed: &[
        row("conventional memory (scratch and hypercall pages)", 0x0, 0xa0, Backing::Ram, None),
        VGA,
        row("option ROMs and BIOS", 0xc0, 0x100, Backing::Ram, Some(RESERVED)),
        // HVMLOADER_PHYSICAL_ADDRESS, tools/firmware/hvmloader/config.h.
        row("hvmloader", 0x100, 0x200, Backing::Ram, None),
        ACPI_INFO,
        row("hvmloader's ACPI tables", 0xf_c001, 0xf_c100, Backing::Own, Some(ACPI)),
        // `memory_map_setup` in tools/firmware/hvmloader stops at a reserved entry in it.
        row("hvmloader's dynamic area", 0xf_c100, 0xf_e000, Backing::Own, Some(RESERVED)),
        IOAPIC,
        HPET,
        TPM,
        LAPIC,
        SPECIAL,
        OVMF_IMAGE,
    ],
    modules: &[],
    floor: Gfn::new(0x200),
    e820_from: Gfn::new(0x100),
    lists_itself: true,
};

/// SeaBIOS, loaded by a builder that knows the plan.
pub const SEABIOS: Firmware<'static> = Firmware {
    fixed: &[
        BIOS_DATA,
        BOOT_SECTOR,
        EBDA,
        VGA,
        OPTION_ROMS,
        BIOS_IMAGE,
        ACPI_INFO,
        IOAPIC,
        HPET,
        TPM,
        LAPIC,
        SPECIAL,
        BIOS_RESET,
    ],
    modules: &[ACPI_TABLES, SMBIOS, VM86_TSS],
    floor: Gfn::new(0x200),
    e820_from: Gfn::new(0),
    lists_itself: false,
};

/// OVMF, loaded by a builder that knows the plan.
pub const OVMF: Firmware<'static> = Firmware {
    fixed: &[
        OVMF_INFO,
        VGA,
        OVMF_RESET,
        OVMF_VOLUMES,
        ACPI_INFO,
        IOAPIC,
        HPET,
        TPM,
        LAPIC,
        SPECIAL,
        OVMF_IMAGE,
    ],
    modules: &[ACPI_TABLES, SMBIOS, VM86_TSS],
    floor: Gfn::new(0x1500),
    e820_from: Gfn::new(0),
    lists_itself: false,
};

/// A kernel that is booted directly (PVH): no firmware, but Xen's devices and pages.
pub const DIRECT: Firmware<'static> = Firmware {
    fixed: &[IOAPIC, LAPIC, SPECIAL],
    modules: &[ACPI_TABLES, VM86_TSS],
    floor: Gfn::new(0),
    e820_from: Gfn::new(0),
    lists_itself: false,
};

/// On AMD processors, addresses from 1012 GiB to 1 TiB are HyperTransport's and reach no memory (AMD I/O
/// Virtualization Technology specification 48882, 2.1.2, table 3): for
/// [`Machine::filled`](crate::Machine::filled) of a guest with 40 address bits or more.
pub const HYPERTRANSPORT: Fixed =
    row("HyperTransport", 0xfd0_0000, 0x1000_0000, Backing::Device, Some(RESERVED));
