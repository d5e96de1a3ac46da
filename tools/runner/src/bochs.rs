//! Bochs: it emulates Intel's VMX with EPT, which QEMU does not without KVM. It loads no ELF, so a ROM of
//! ours stands in for the firmware and the boot loader: it copies the image to its place and enters it as PVH
//! says.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

use crate::emulator::Emulator;
use crate::hash::fnv1a;
use crate::layout;
use crate::qemu::{self, CannotCompose, Invocation};

/// Why Bochs cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// The image's file.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no ELF file of 64 bits.
    #[error("the image is not an ELF file: {0}")]
    NotElf(#[from] object::Error),
    /// It has no segments, or such as do not fit.
    #[error("the image's segments do not fit a ROM of {ROM_LIMIT:#x} bytes and the emulated RAM")]
    Segments,
    /// QEMU would not take the command line either.
    #[error(transparent)]
    Compose(#[from] CannotCompose),
    /// A file that Bochs is to read.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What the image finds after the last byte of an address space of 32 bits: where the processor starts.
const END: u64 = 1 << 32;
/// The last 64 KiB, which the processor's first instructions can reach.
const BOOT: usize = 0x1_0000;
/// The most that Bochs takes for a ROM.
const ROM_LIMIT: usize = 4 << 20;
/// Where the command line lies, in the first MiB of RAM, and how long it may be.
const LINE: u64 = 0x9000;
const LINE_LIMIT: usize = 4096;
/// Memory that the firmware is said to keep, right below the end of RAM.
const KEPT: u64 = 1 << 20;

/// Offsets in the last 64 KiB.
mod at {
    /// 16-bit code.
    pub(super) const REAL: usize = 0;
    /// 32-bit code.
    pub(super) const PROTECTED: usize = 0x80;
    pub(super) const GDT: usize = 0x100;
    pub(super) const GDT_POINTER: usize = 0x120;
    /// hvm_start_info and its memory map.
    pub(super) const START_INFO: usize = 0x200;
    pub(super) const MEMORY_MAP: usize = 0x280;
    /// The first instruction.
    pub(super) const RESET: usize = 0xfff0;
}

/// Flat segments: a null descriptor, code, data.
const GDT: [u64; 3] = [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Writes what Bochs reads into `folder` and composes its command.
pub(crate) fn prepare(
    program: &Path,
    image: &Path,
    append: &str,
    folder: &Path,
    write: impl Fn(&Path, &[u8]) -> io::Result<()>,
) -> Result<Invocation, NotReady> {
    if append.len() >= LINE_LIMIT {
        return Err(CannotCompose::AppendTooLong(append.len()).into());
    }
    let elf = std::fs::read(image).map_err(|source| NotReady::Read { path: image.to_owned(), source })?;
    let rom = rom(&elf)?;
    // Each command line has its files, since several boots may be under way.
    let name = format!("bochs-{:08x}", fnv1a(append.as_bytes()) >> 32);
    let files = Files {
        rom: folder.join("bochs.rom"),
        video: folder.join("bochs-video.rom"),
        line: folder.join(format!("{name}.line")),
    };
    let (configuration, commands) = (folder.join(format!("{name}.rc")), folder.join("bochs.commands"));
    let line: Vec<u8> = append.bytes().chain([0]).collect();
    for (path, bytes) in [
        (&files.rom, rom.as_slice()),
        (&files.video, &video_rom()),
        (&files.line, &line),
        (&configuration, configuration_for(&files, rom.len()).as_bytes()),
        // The debugger, which Debian builds in, is told to go on.
        (&commands, b"c\n"),
    ] {
        write(path, bytes).map_err(|source| NotReady::Write { path: path.clone(), source })?;
    }
    let shown = |path: &Path| qemu::shown(path);
    let arguments =
        ["-q".into(), "-f".into(), shown(&configuration), "-rc".into(), shown(&commands)].to_vec();
    Ok(Invocation { emulator: Emulator::Bochs, program: program.to_owned(), arguments })
}

/// The files that the configuration names.
struct Files {
    rom: PathBuf,
    video: PathBuf,
    line: PathBuf,
}

/// Bochs's configuration (bochsrc).
fn configuration_for(files: &Files, rom_size: usize) -> String {
    let ram = layout::RAM_MIB;
    let start = END - rom_size as u64;
    let Files { rom, video, line } = files;
    let mut text = String::new();
    for setting in [
        // The speaker's sound library ends Bochs where there is no sound card.
        "plugin_ctrl: unmapped=1, serial=1, speaker=0".into(),
        format!("memory: guest={ram}, host={ram}"),
        format!("romimage: file={}, address={start:#x}", qemu::shown(rom)),
        format!("vgaromimage: file={}", qemu::shown(video)),
        format!("optramimage1: file={}, address={LINE:#x}", qemu::shown(line)),
        // Few instructions in a second of the emulated time, since the image waits for the serial line.
        "cpu: model=corei7_haswell_4770, ips=4000000, reset_on_triple_fault=0".into(),
        "com1: enabled=1, mode=file, dev=/dev/stdout".into(),
        // There must be a display; nobody is waited for to look at it.
        "display_library: rfb, options=\"timeout=0\"".into(),
        "clock: sync=none".into(),
        "panic: action=fatal".into(),
        "log: /dev/null".into(),
    ] as [String; 11]
    {
        let _ = writeln!(text, "{setting}");
    }
    text
}

/// A ROM that ends at 4 GiB: the image's segments as they are to lie in RAM, then 64 KiB that copy and enter
/// it.
///
/// # Errors
/// [`NotReady`].
pub fn rom(elf: &[u8]) -> Result<Vec<u8>, NotReady> {
    let header = FileHeader64::<Endianness>::parse(elf)?;
    let endian = header.endian()?;
    let mut segments = Vec::new();
    for segment in header.program_headers(endian, elf)? {
        if segment.p_type(endian) == PT_LOAD {
            let bytes = segment.data(endian, elf).map_err(|()| NotReady::Segments)?;
            segments.push((segment.p_paddr(endian), segment.p_memsz(endian), bytes));
        }
    }
    let start = segments.iter().map(|(start, ..)| *start).min().ok_or(NotReady::Segments)?;
    let ends = segments.iter().map(|(start, size, _)| start.checked_add(*size));
    let end = ends.collect::<Option<Vec<_>>>().and_then(|ends| ends.into_iter().max());
    let end =
        end.filter(|end| *end <= (u64::from(layout::RAM_MIB) << 20) - KEPT).ok_or(NotReady::Segments)?;
    let size = usize::try_from(end - start).map_err(|_| NotReady::Segments)?.next_multiple_of(BOOT);
    if size + BOOT > ROM_LIMIT {
        return Err(NotReady::Segments);
    }
    let mut rom = vec![0; size];
    for (place, _, bytes) in segments {
        let offset = usize::try_from(place - start).map_err(|_| NotReady::Segments)?;
        let place = rom.get_mut(offset..offset + bytes.len()).ok_or(NotReady::Segments)?;
        place.copy_from_slice(bytes);
    }
    let entry = u32::try_from(header.e_entry(endian)).map_err(|_| NotReady::Segments)?;
    let start = u32::try_from(start).map_err(|_| NotReady::Segments)?;
    rom.extend(boot(start, size, entry));
    Ok(rom)
}

/// The last 64 KiB: from the reset vector into 32-bit mode, the image of `size` bytes to `start`, and to its
/// PVH entry.
fn boot(start: u32, size: usize, entry: u32) -> [u8; BOOT] {
    let mut bytes = [0xff; BOOT];
    let mut put = |offset: usize, parts: &[&[u8]]| {
        let part = parts.concat();
        bytes[offset..offset + part.len()].copy_from_slice(&part);
    };
    let word = |offset: usize| u16::try_from(offset).unwrap_or_default().to_le_bytes();
    let address = |offset: usize| END - BOOT as u64 + offset as u64;
    let long = |value: u64| u32::try_from(value).unwrap_or_default().to_le_bytes();
    put(
        at::REAL,
        &[
            &[0xfa],                         // cli
            &[0x2e, 0x66, 0x0f, 0x01, 0x16], // lgdt cs:[…]
            &word(at::GDT_POINTER),
            &[0x0f, 0x20, 0xc0],       // mov eax, cr0
            &[0x66, 0x83, 0xc8, 0x01], // or eax, 1
            &[0x0f, 0x22, 0xc0],       // mov cr0, eax
            &[0x66, 0xea],             // jmp 8:…
            &long(address(at::PROTECTED)),
            &[0x08, 0x00],
        ],
    );
    put(
        at::PROTECTED,
        &[
            &[0xb8, 0x10, 0x00, 0x00, 0x00],       // mov eax, 0x10
            &[0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0], // mov ds, eax; mov es, eax; mov ss, eax
            &[0xbe],                               // mov esi, …
            &long(END - BOOT as u64 - size as u64),
            &[0xbf], // mov edi, …
            &start.to_le_bytes(),
            &[0xb9], // mov ecx, …
            &long(size as u64 / 4),
            &[0xfc, 0xf3, 0xa5], // cld; rep movsd
            &[0xbb],             // mov ebx, …
            &long(address(at::START_INFO)),
            &[0xb8], // mov eax, …
            &entry.to_le_bytes(),
            &[0xff, 0xe0], // jmp eax
        ],
    );
    put(at::GDT, &GDT.map(u64::to_le_bytes).each_ref().map(<[u8; 8]>::as_slice));
    put(at::GDT_POINTER, &[&word(size_of_val(&GDT) - 1), &long(address(at::GDT))]);
    // jmp REAL, from after the three bytes of the jump.
    put(at::RESET, &[&[0xe9], &word(at::REAL + BOOT - at::RESET - 3)]);

    let ram = u64::from(layout::RAM_MIB) << 20;
    let usable = 1_u32;
    let reserved = 2_u32;
    // Addresses, sizes, E820 types.
    let map = [
        (0, 0xa_0000, usable),
        (1 << 20, ram - KEPT - (1 << 20), usable),
        (ram - KEPT, KEPT, reserved),
        (END - ROM_LIMIT as u64, ROM_LIMIT as u64, reserved),
    ];
    let entries: Vec<u8> = map
        .iter()
        .flat_map(|(start, size, kind): &(u64, u64, u32)| {
            [start.to_le_bytes().as_slice(), &size.to_le_bytes(), &kind.to_le_bytes(), &[0; 4]].concat()
        })
        .collect();
    put(at::MEMORY_MAP, &[&entries]);
    // Xen's public/arch-x86/hvm/start_info.h: magic, version, flags, no modules, where the line, the RSDP
    // (none) and the map are.
    let (magic, version) = (0x336e_c578_u32, 1_u32);
    put(
        at::START_INFO,
        &[
            &magic.to_le_bytes(),
            &version.to_le_bytes(),
            &[0; 16],
            &LINE.to_le_bytes(),
            &[0; 8],
            &address(at::MEMORY_MAP).to_le_bytes(),
            &long(map.len() as u64),
            &[0; 4],
        ],
    );
    bytes
}

/// Bochs wants a ROM for its display, and runs nothing of it, since our ROM looks for none: signature, size,
/// a checksum of zero.
fn video_rom() -> Vec<u8> {
    const SIZE: usize = 0x8000;
    let mut bytes = vec![0; SIZE];
    bytes[..3].copy_from_slice(&[0x55, 0xaa, 0x40]);
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    bytes[SIZE - 1] = sum.wrapping_neg();
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with one segment: 5 bytes at 0x100000, in memory 0x20000.
    fn elf() -> Vec<u8> {
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
        file.resize(16, 0);
        for (value, size) in [
            // Executable, x86-64, version; entry, program headers after the header, no sections.
            (2_u64, 2),
            (62, 2),
            (1, 4),
            (0x10_0002, 8),
            (64, 8),
            (0, 8),
            (0, 4),
            (64, 2),
            (56, 2),
            (1, 2),
            (0, 2),
            (0, 2),
            (0, 2),
            // PT_LOAD, readable: offset, addresses, sizes, alignment.
            (1, 4),
            (4, 4),
            (120, 8),
            (0x10_0000, 8),
            (0x10_0000, 8),
            (5, 8),
            (0x2_0000, 8),
            (1, 8),
        ] {
            file.extend(&value.to_le_bytes()[..size]);
        }
        file.extend(b"image");
        file
    }

    #[test]
    fn a_rom_holds_the_image_and_the_way_into_it() {
        let rom = rom(&elf()).unwrap();
        assert_eq!(rom.len(), 0x3_0000);
        assert_eq!(&rom[..6], b"image\0");
        let boot = &rom[0x2_0000..];
        // jmp from 0xfff3 to 0.
        assert_eq!(&boot[at::RESET..at::RESET + 3], &[0xe9, 0x0d, 0x00]);
        let code = &boot[at::PROTECTED..at::PROTECTED + 64];
        let holds = |value: u32| code.windows(4).any(|bytes| bytes == value.to_le_bytes());
        // From where, to where, how many words, the start information, the entry.
        for value in [0xfffd_0000, 0x10_0000, 0x8000, 0xffff_0200, 0x10_0002] {
            assert!(holds(value), "{value:#x}");
        }
        assert_eq!(&boot[at::START_INFO..at::START_INFO + 4], &0x336e_c578_u32.to_le_bytes());
        assert_eq!(boot[at::START_INFO + 48], 4);
    }

    #[test]
    fn what_is_no_image_gives_no_rom() {
        assert!(matches!(rom(b"\x7fELF"), Err(NotReady::NotElf(_))));
        let mut none = elf();
        none[56] = 0;
        assert!(matches!(rom(&none), Err(NotReady::Segments)));
        let mut huge = elf();
        // The size in memory.
        huge[64 + 43] = 1;
        assert!(matches!(rom(&huge), Err(NotReady::Segments)));
    }

    #[test]
    fn a_video_roms_bytes_sum_to_zero() {
        assert_eq!(video_rom().iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    }
}
