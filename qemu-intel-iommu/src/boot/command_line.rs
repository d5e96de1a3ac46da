//! The kernel command line: words between spaces, borrowed from the line.

use core::fmt;

use log::LevelFilter;

/// One word of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word<'a> {
    /// `rmrr=…`: reserved regions in Xen's syntax, as written.
    Rmrr(&'a str),
    /// `break=STEP`: spoil what this step looks at.
    Break(&'a str),
    /// `omit=uhci`: leave the UHCI's regions out of what is mapped.
    OmitUhci,
    /// `iommu=off`: leave the remapping units alone.
    IommuOff,
    /// `isolation=report` or `isolation=require`: whether devices that PCI does not keep apart must stay
    /// together.
    RequireIsolation(bool),
    /// `scenario=NAME`.
    Scenario(&'a str),
    /// `stand-in-unit=ADDRESS`: the unit at this address stands in for every DRHD of the table.
    StandInUnit(u64),
    /// `list-steps`: print the steps of the scenario and exit.
    ListSteps,
    /// `log=LEVEL`.
    Log(LevelFilter),
    /// `crash=KIND`: end in this kind of crash, so that a test can see how crashes are reported.
    Crash(Crash),
    /// Anything else, or a value that cannot be read.
    Unknown(&'a str),
}

/// How to crash on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// A panic.
    Panic,
    /// A panic while the serial line is held, in the middle of a record.
    PanicInRecord,
    /// A write to the unmapped page 0.
    PageFault,
    /// A write to the image's own code.
    WriteToCode,
    /// Recursion until the guard page below the stack.
    StackOverflow,
    /// An undefined instruction.
    InvalidOpcode,
    /// A read right after the last bank of memory.
    BehindMemory,
}

impl<'a> Word<'a> {
    /// Reads one word. Never fails: what it does not know is [`Word::Unknown`].
    pub fn parse(word: &'a str) -> Self {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
        };
        let known = match (key, value) {
            ("rmrr", Some(value)) => Some(Self::Rmrr(value)),
            ("break", Some(value)) => Some(Self::Break(value)),
            ("omit", Some("uhci")) => Some(Self::OmitUhci),
            ("iommu", Some("off")) => Some(Self::IommuOff),
            ("isolation", Some("report")) => Some(Self::RequireIsolation(false)),
            ("isolation", Some("require")) => Some(Self::RequireIsolation(true)),
            ("scenario", Some(value)) => Some(Self::Scenario(value)),
            ("stand-in-unit", Some(value)) => parse_address(value).map(Self::StandInUnit),
            ("list-steps", None) => Some(Self::ListSteps),
            ("log", Some(value)) => value.parse().ok().map(Self::Log),
            ("crash", Some(value)) => Crash::parse(value).map(Self::Crash),
            _ => None,
        };
        known.unwrap_or(Self::Unknown(word))
    }
}

impl Crash {
    fn parse(value: &str) -> Option<Self> {
        Some(match value {
            "panic" => Self::Panic,
            "panic-in-record" => Self::PanicInRecord,
            "page-fault" => Self::PageFault,
            "write-to-code" => Self::WriteToCode,
            "stack-overflow" => Self::StackOverflow,
            "invalid-opcode" => Self::InvalidOpcode,
            "behind-memory" => Self::BehindMemory,
            _ => return None,
        })
    }
}

/// A hexadecimal address with `0x`, or a decimal one.
fn parse_address(value: &str) -> Option<u64> {
    match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => value.parse().ok(),
    }
}

/// The command line. Where a word may be given once, the last one counts.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    line: &'a str,
}

impl<'a> Options<'a> {
    /// The options in `line`.
    pub fn new(line: &'a str) -> Self {
        Self { line }
    }

    /// Every word, in order.
    pub fn words(&self) -> impl DoubleEndedIterator<Item = Word<'a>> + use<'a> {
        self.line.split_ascii_whitespace().map(Word::parse)
    }

    /// The values of `rmrr=`, in order.
    pub fn rmrr(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.words().filter_map(|word| if let Word::Rmrr(value) = word { Some(value) } else { None })
    }

    /// The steps to spoil.
    pub fn breaks(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.words().filter_map(|word| if let Word::Break(step) = word { Some(step) } else { None })
    }

    /// Whether `step` is to be spoilt.
    pub fn broken(&self, step: &str) -> bool {
        self.breaks().any(|broken| broken == step)
    }

    /// Whether the UHCI's regions are left out of what the hypervisor maps.
    pub fn omits_uhci(&self) -> bool {
        self.words().any(|word| word == Word::OmitUhci)
    }

    /// Whether the remapping units are to be left alone.
    pub fn has_iommu_off(&self) -> bool {
        self.words().any(|word| word == Word::IommuOff)
    }

    /// Whether devices that PCI does not keep apart must stay together; not unless it is said.
    pub fn requires_isolation(&self) -> bool {
        let told = self.words().rev().find_map(|word| match word {
            Word::RequireIsolation(required) => Some(required),
            _ => None,
        });
        told.unwrap_or(false)
    }

    /// The scenario's name, if one was given.
    pub fn scenario(&self) -> Option<&'a str> {
        self.words().rev().find_map(|word| if let Word::Scenario(name) = word { Some(name) } else { None })
    }

    /// The physical address of the unit that stands in for every DRHD.
    pub fn stand_in_unit(&self) -> Option<u64> {
        self.words().rev().find_map(|word| if let Word::StandInUnit(base) = word { Some(base) } else { None })
    }

    /// Whether to list the steps only.
    pub fn list_steps(&self) -> bool {
        self.words().any(|word| word == Word::ListSteps)
    }

    /// The lowest level that is logged; `info` unless given.
    pub fn log_level(&self) -> LevelFilter {
        let told =
            self.words().rev().find_map(|word| if let Word::Log(level) = word { Some(level) } else { None });
        told.unwrap_or(LevelFilter::Info)
    }

    /// How to crash, if at all.
    pub fn crash(&self) -> Option<Crash> {
        self.words().rev().find_map(|word| if let Word::Crash(kind) = word { Some(kind) } else { None })
    }

    /// The words that mean nothing.
    pub fn unknown(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.words().filter_map(|word| if let Word::Unknown(text) = word { Some(text) } else { None })
    }
}

impl fmt::Display for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.line)
    }
}
