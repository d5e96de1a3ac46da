//! The `rmrr=` option: reserved regions that an administrator adds on the hypervisor's command line.
//!
//! The syntax is Xen's (`docs/misc/xen-command-line.pandoc`): `rmrr=start[-end]=[seg:]bus:dev.fn[,…][;…]`,
//! everything hexadecimal, with or without `0x`; `start` and `end` are page numbers and `end` is included. A
//! segment goes before any device; devices without one take the first device's.
//!
//! It differs from Xen where Xen loses something: an error costs its own region and is reported with its
//! position, the regions after it count; the option may be of any length, with any number of regions and
//! devices; 00:00.0 does not end a list; a number that is missing or does not fit is an error; and a region
//! may have up to [`MAX_PAGES`] pages.

use p2m::{Mfn, MfnRange};

use crate::platform::Sbdf;

/// The most pages a region of the option may have: 1 GiB. (Xen: 16 pages, less than most regions that real
/// firmware reserves.)
pub const MAX_PAGES: u64 = 1 << 18;

/// One region of the option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionRegion<'a> {
    /// Where it begins in the option's value, in bytes.
    pub position: usize,
    /// Its frames.
    pub range: MfnRange,
    segment: u16,
    devices: &'a str,
}

impl<'a> OptionRegion<'a> {
    /// The devices that it belongs to, in the order of the option.
    pub fn devices(&self) -> impl Iterator<Item = Sbdf> + Clone + use<'a> {
        let segment = self.segment;
        self.devices.split(',').filter_map(move |text| {
            let (_, [bus, device, function]) = Cursor { text, at: 0 }.device().ok()?;
            Some(Sbdf::new(
                segment,
                u8::try_from(bus).ok()?,
                u8::try_from(device).ok()?,
                u8::try_from(function).ok()?,
            ))
        })
    }
}

/// What is wrong with a region of the option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionErrorKind {
    /// A hexadecimal number should stand here.
    #[error("a hexadecimal number is expected")]
    NumberExpected,
    /// The number is larger than this.
    #[error("the number is larger than {max:#x}")]
    TooLarge {
        /// The largest number allowed here.
        max: u64,
    },
    /// This character should stand here.
    #[error("`{0}` is expected")]
    Expected(char),
    /// The last page lies below the first.
    #[error("the last page lies below the first")]
    Reversed,
    /// The region has more pages than [`MAX_PAGES`].
    #[error("{pages} pages are more than the {MAX_PAGES} that a region may have")]
    TooManyPages {
        /// How many.
        pages: u64,
    },
    /// This device is in another segment than the first.
    #[error("segment {this:#x} differs from the first device's, {first:#x}")]
    Segment {
        /// The first device's.
        first: u16,
        /// This one's.
        this: u16,
    },
}

/// A region of the option that does not count, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {}: {kind}", position.saturating_add(1))]
pub struct OptionError {
    /// Where in the option's value, in bytes from its start.
    pub position: usize,
    /// What is wrong there.
    #[source]
    pub kind: OptionErrorKind,
}

/// Reads the value of one `rmrr=` option (what follows the first `=`), region by region.
pub fn regions(value: &str) -> impl Iterator<Item = Result<OptionRegion<'_>, OptionError>> {
    let mut next = 0_usize;
    core::iter::from_fn(move || {
        let start = next;
        let rest = value.get(start..)?;
        let text = rest.split(';').next().unwrap_or(rest);
        // Behind the semicolon; where there is none that is beyond the value's end.
        next = start.saturating_add(text.len()).saturating_add(1);
        Some(
            region(text, start)
                .map_err(|error| OptionError { position: error.position.saturating_add(start), ..error }),
        )
    })
}

fn region(text: &str, position: usize) -> Result<OptionRegion<'_>, OptionError> {
    let mut cursor = Cursor { text, at: 0 };
    // Frames have 52 bits at most: addresses have 64.
    let max_frame = u64::MAX >> p2m::PAGE_SHIFT;
    let first = cursor.number(max_frame)?;
    let end_at = cursor.at;
    let last = if cursor.take('-') { cursor.number(max_frame)? } else { first };
    if last < first {
        return Err(OptionError { position: end_at, kind: OptionErrorKind::Reversed });
    }
    let pages = last.saturating_sub(first).saturating_add(1);
    if pages > MAX_PAGES {
        return Err(OptionError { position: 0, kind: OptionErrorKind::TooManyPages { pages } });
    }
    cursor.expect('=')?;
    let devices = text.get(cursor.at..).unwrap_or_default();
    let mut segment = None;
    loop {
        let at = cursor.at;
        let (this, _) = cursor.device()?;
        let first = *segment.get_or_insert(this.unwrap_or(0));
        if let Some(this) = this.filter(|this| *this != first) {
            return Err(OptionError { position: at, kind: OptionErrorKind::Segment { first, this } });
        }
        if !cursor.take(',') {
            break;
        }
    }
    if cursor.at < text.len() {
        return Err(OptionError { position: cursor.at, kind: OptionErrorKind::Expected(';') });
    }
    let range = MfnRange::with_len(Mfn::new(first), pages)
        .ok_or(OptionError { position: 0, kind: OptionErrorKind::TooLarge { max: max_frame } })?;
    Ok(OptionRegion { position, range, segment: segment.unwrap_or(0), devices })
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl Cursor<'_> {
    fn error(&self, kind: OptionErrorKind) -> OptionError {
        OptionError { position: self.at, kind }
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, character: char) -> bool {
        let taken = self.rest().starts_with(character);
        if taken {
            self.at = self.at.saturating_add(character.len_utf8());
        }
        taken
    }

    fn expect(&mut self, character: char) -> Result<(), OptionError> {
        if self.take(character) { Ok(()) } else { Err(self.error(OptionErrorKind::Expected(character))) }
    }

    fn number(&mut self, max: u64) -> Result<u64, OptionError> {
        let start = self.at;
        if let [b'0', b'x' | b'X', digit, ..] = self.rest().as_bytes()
            && digit.is_ascii_hexdigit()
        {
            self.at = self.at.saturating_add(2);
        }
        let digits = self.rest().bytes().take_while(u8::is_ascii_hexdigit).count();
        let text = self.rest().get(..digits).unwrap_or_default();
        if text.is_empty() {
            return Err(self.error(OptionErrorKind::NumberExpected));
        }
        match u64::from_str_radix(text, 16) {
            Ok(number) if number <= max => {
                self.at = self.at.saturating_add(digits);
                Ok(number)
            }
            _ => Err(OptionError { position: start, kind: OptionErrorKind::TooLarge { max } }),
        }
    }

    /// `[seg:]bus:dev.fn`: the segment where there is one, and bus, device and function.
    fn device(&mut self) -> Result<(Option<u16>, [u64; 3]), OptionError> {
        let start = self.at;
        let first = self.number(0xffff)?;
        self.expect(':')?;
        let second_at = self.at;
        let second = self.number(0xff)?;
        let (segment, bus, device_at, device) = if self.take(':') {
            let at = self.at;
            (u16::try_from(first).ok(), second, at, self.number(0x1f)?)
        } else {
            (None, first, second_at, second)
        };
        for (number, max, position) in [(bus, 0xff, start), (device, 0x1f, device_at)] {
            if number > max {
                return Err(OptionError { position, kind: OptionErrorKind::TooLarge { max } });
            }
        }
        self.expect('.')?;
        let function = self.number(7)?;
        Ok((segment, [bus, device, function]))
    }
}

#[cfg(test)]
mod tests {
    use std::string::String;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    type Read = Result<(u64, u64, Vec<Sbdf>), OptionError>;

    fn read(value: &str) -> Vec<Read> {
        regions(value)
            .map(|region| region.map(|r| (r.range.start().raw(), r.range.len(), r.devices().collect())))
            .collect()
    }

    fn error(position: usize, kind: OptionErrorKind) -> Read {
        Err(OptionError { position, kind })
    }

    #[test]
    fn reads_what_xen_reads() {
        let igd = Sbdf::new(0, 0, 2, 0);
        assert_eq!(read("0xd5d45-0xd5d46=0:1d.0"), [Ok((0xd5d45, 2, Vec::from([Sbdf::new(0, 0, 0x1d, 0)])))]);
        assert_eq!(read("7bd00=0:2.0"), [Ok((0x7bd00, 1, Vec::from([igd])))]);
        assert_eq!(
            read("a-b=3:0:2.0,1:1f.7;c=0:2.0"),
            [
                Ok((10, 2, Vec::from([Sbdf::new(3, 0, 2, 0), Sbdf::new(3, 1, 0x1f, 7)]))),
                Ok((12, 1, Vec::from([igd])))
            ]
        );
        // 1 GiB is the most.
        assert_eq!(read("40000-7ffff=0:2.0"), [Ok((0x40000, 0x40000, Vec::from([igd])))]);
        // 00:00.0 is a device like any other.
        assert_eq!(read("1=0:0.0,0:2.0"), [Ok((1, 1, Vec::from([Sbdf::new(0, 0, 0, 0), igd])))]);
    }

    #[test]
    fn an_error_names_its_position_and_costs_one_region() {
        let good = || Ok((1, 1, Vec::from([Sbdf::new(0, 0, 2, 0)])));
        assert_eq!(read("zz;1=0:2.0"), [error(0, OptionErrorKind::NumberExpected), good()]);
        assert_eq!(read("1=0:2.0;5-4=0:2.0;1=0:2.0"), [good(), error(9, OptionErrorKind::Reversed), good()]);
        assert_eq!(read("1=0:2.0;5"), [good(), error(9, OptionErrorKind::Expected('='))]);
        assert_eq!(read("1=0:2.0x"), [error(7, OptionErrorKind::Expected(';'))]);
        assert_eq!(read("1=0:20.0"), [error(4, OptionErrorKind::TooLarge { max: 0x1f })]);
        assert_eq!(read("1=100:2.0"), [error(2, OptionErrorKind::TooLarge { max: 0xff })]);
        assert_eq!(read("1=10000:0:2.0"), [error(2, OptionErrorKind::TooLarge { max: 0xffff })]);
        assert_eq!(read("1=0:2.8"), [error(6, OptionErrorKind::TooLarge { max: 7 })]);
        assert_eq!(read("1=0:2"), [error(5, OptionErrorKind::Expected('.'))]);
        assert_eq!(read("1=0:2."), [error(6, OptionErrorKind::NumberExpected)]);
        assert_eq!(read("1=0:2.0,"), [error(8, OptionErrorKind::NumberExpected)]);
        assert_eq!(read("1=0:2.0,1:0:2.0"), [error(8, OptionErrorKind::Segment { first: 0, this: 1 })]);
        assert_eq!(read("0-40000=0:2.0"), [error(0, OptionErrorKind::TooManyPages { pages: 0x40001 })]);
        assert_eq!(
            read("10000000000000=0:2.0"),
            [error(0, OptionErrorKind::TooLarge { max: u64::MAX >> p2m::PAGE_SHIFT })]
        );
        assert_eq!(read(""), [error(0, OptionErrorKind::NumberExpected)]);
        assert_eq!(read("1=0:2.0;"), [good(), error(8, OptionErrorKind::NumberExpected)]);
        assert_eq!(read("1=0:2.0;;1=0:2.0"), [good(), error(8, OptionErrorKind::NumberExpected), good()]);
    }

    /// Xen reads an empty number as 0, and of a large one the low 64 bits.
    #[test]
    fn numbers_that_are_empty_or_too_large_are_errors() {
        for (value, position) in [
            ("=0:2.0", 0),
            ("-2=0:2.0", 0),
            ("1-=0:2.0", 2),
            ("1=:2.0", 2),
            ("1=0:.0", 4),
            ("1=0:2.", 6),
            ("1=0::2.0", 4),
            ("0x=0:2.0", 1),
        ] {
            let kind = match value {
                // A `0x` without a digit is a 0 and a letter.
                "0x=0:2.0" => OptionErrorKind::Expected('='),
                _ => OptionErrorKind::NumberExpected,
            };
            assert_eq!(read(value), [error(position, kind)], "{value}");
        }
        let max = u64::MAX >> p2m::PAGE_SHIFT;
        for number in
            ["10000000000000000", "10000000000000001", "ffffffffffffffffffff", "0x10000000000000000"]
        {
            let text = std::format!("{number}=0:2.0;1={number}:2.0");
            let device = number.len() + "=0:2.0;1=".len();
            assert_eq!(
                read(&text),
                [
                    error(0, OptionErrorKind::TooLarge { max }),
                    error(device, OptionErrorKind::TooLarge { max: 0xffff })
                ],
                "{number}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_its_end(text in "[0-9a-fx:.,;=-]{0,60}|.{0,40}") {
            let read = read(&text);
            prop_assert!(read.len() <= text.matches(';').count() + 1);
            for error in read.into_iter().filter_map(Result::err) {
                prop_assert!(error.position <= text.len());
            }
        }

        #[test]
        fn what_is_written_is_read(
            items in prop::collection::vec((0_u64..1 << 40, 1..MAX_PAGES, any::<u16>(), prop::collection::vec(any::<u16>(), 1..8)), 1..6)
        ) {
            let mut text = String::new();
            for (index, (first, pages, segment, devices)) in items.iter().enumerate() {
                let separator = if index == 0 { "" } else { ";" };
                text += &std::format!("{separator}{first:#x}-{:x}=", first + pages - 1);
                for (index, device) in devices.iter().enumerate() {
                    let sbdf = Sbdf::from_raw(u32::from(*segment) << 16 | u32::from(*device));
                    let prefix = if index == 0 { std::format!("{segment:x}:") } else { String::from(",") };
                    text += &std::format!("{prefix}{:x}:{:x}.{}", sbdf.bus(), sbdf.device(), sbdf.function());
                }
            }
            let expected: Vec<_> = items
                .into_iter()
                .map(|(first, pages, segment, devices)| {
                    let devices = devices.into_iter().map(|d| Sbdf::from_raw(u32::from(segment) << 16 | u32::from(d)));
                    Ok((first, pages, devices.collect::<Vec<_>>()))
                })
                .collect();
            prop_assert_eq!(read(&text), expected);
        }
    }
}
