//! Any text as the `rmrr=` option.

use xen_iommu::region::rmrr_option::{MAX_PAGES, OptionErrorKind, regions};

/// Reads the text, region by region.
pub fn option(data: &[u8]) {
    // A boot loader hands over any bytes; who calls makes them text.
    let text = String::from_utf8_lossy(data);
    let parts = text.split(';').collect::<Vec<_>>();
    let read: Vec<_> = regions(&text).collect();
    // A last part without anything is one too, and so is an empty text.
    assert_eq!(read.len(), parts.len(), "a region was lost or read twice");
    let mut start = 0;
    for (region, part) in read.into_iter().zip(parts) {
        let end = start + part.len();
        match region {
            Ok(region) => {
                assert_eq!(region.position, start);
                assert!((1..=MAX_PAGES).contains(&region.range.len()));
                assert!(region.range.end().raw() <= 1 << 52);
                let devices: Vec<_> = region.devices().collect();
                // As many as there are between commas.
                assert_eq!(devices.len(), part.split(',').count());
                assert!(devices.iter().all(|device| device.segment() == devices[0].segment()));
                assert!(devices.iter().all(|device| device.device() < 32 && device.function() < 8));
                // Written in one way, it reads the same.
                let again = format!(
                    "{:x}-{:x}={:x}:{}",
                    region.range.start().raw(),
                    region.range.end().raw() - 1,
                    devices[0].segment(),
                    devices
                        .iter()
                        .map(|device| format!(
                            "{:x}:{:x}.{}",
                            device.bus(),
                            device.device(),
                            device.function()
                        ))
                        .collect::<Vec<_>>()
                        .join(",")
                );
                let again: Vec<_> =
                    regions(&again).map(|region| region.map(|r| (r.range, r.devices().collect()))).collect();
                assert_eq!(again, [Ok((region.range, devices))]);
            }
            Err(error) => {
                assert!((start..=end).contains(&error.position), "an error outside its region");
                assert!(text.is_char_boundary(error.position));
                assert!(!error.to_string().is_empty());
                if let OptionErrorKind::TooManyPages { pages } = error.kind {
                    assert!(pages > MAX_PAGES);
                }
            }
        }
        start = end + 1;
    }
}
