//! What a frame source is told of written entries: all it takes to write caches back where remapping hardware
//! does not snoop them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use p2m::{
    Access, AddressSpace, Entry, FrameSource, Mfn, MfnRange, OnConflict, P2m, P2mType, PageSize, SecondLevel,
    Table,
};

use testkit::frames::Frames;
use testkit::tables::model::gfns;

fn content(frames: &Frames) -> BTreeMap<Mfn, Vec<u64>> {
    let words = |mfn| frames.table(mfn).unwrap().0.iter().map(|word| word.load(Ordering::Relaxed)).collect();
    frames.live_frames().into_iter().map(|mfn| (mfn, words(mfn))).collect()
}

/// The tables that hardware walks.
fn tree(frames: &Frames, table: Mfn, level: u32) -> BTreeSet<Mfn> {
    let mut tree = BTreeSet::from([table]);
    for entry in frames.table(table).unwrap().0.iter().map(|entry| entry.load(Ordering::Relaxed)) {
        if level > 1 && entry & 3 != 0 && entry & 1 << 7 == 0 {
            tree.append(&mut self::tree(frames, Mfn::containing(entry & 0xf_ffff_ffff_f000), level - 1));
        }
    }
    tree
}

#[test]
fn it_is_told_of_every_entry_that_changes_and_of_few_more() {
    let frames = Frames::new(32);
    let told = Arc::new(Mutex::new(BTreeSet::new()));
    let mut table = Table::new(SecondLevel::default(), &frames, 4, PageSize::Size2M).unwrap();
    let listener = Arc::clone(&told);
    frames.listen(move |_, mfn, entries| listener.lock().unwrap().extend(entries.map(|entry| (mfn, entry))));
    let ram = |mfn| Entry { p2m_type: P2mType::RamRw, mfn: Some(Mfn::new(mfn)), access: Access::READ_WRITE };
    let region = MfnRange::new(Mfn::new(0x40_0205), Mfn::new(0x40_0423)).unwrap();
    type Call<'c> = &'c dyn Fn(&mut Table<SecondLevel, &Frames>);
    let calls: [Call<'_>; 7] = [
        &|table| table.map(gfns(0x205, 0x207), ram(0x1005)).unwrap(),
        &|table| table.map(gfns(0x3ff, 0x401), ram(0x9000)).unwrap(),
        &|table| table.map(gfns(0x4_0000, 0x4_0600), ram(0x8_0000)).unwrap(),
        &|table| {
            let done = table.map_identity(region, Access::READ_WRITE, OnConflict::Refuse, &mut |_| ());
            assert!(done.is_ok());
        },
        &|table| {
            assert_eq!(table.change_type(gfns(0x4_0123, 0x4_0125), P2mType::RamRw, P2mType::RamRo), Ok(2))
        },
        &|table| table.unmap_identity(region).unwrap(),
        &|table| table.unmap(gfns(0x206, 0x400)).unwrap(),
    ];
    for (number, call) in calls.iter().enumerate() {
        let before = content(&frames);
        told.lock().unwrap().clear();
        call(&mut table);
        let told = told.lock().unwrap();
        let zeros = vec![0; 512];
        let mut changed = BTreeSet::new();
        for (mfn, words) in content(&frames) {
            let old = before.get(&mfn).unwrap_or(&zeros);
            changed.extend((0..512).filter(|&entry| words[entry] != old[entry]).map(|entry| (mfn, entry)));
        }
        // Tables that left the tree are linked through their first entries, which no hardware reads any more.
        let tree = tree(&frames, table.root().root, 4);
        changed.retain(|(mfn, _)| tree.contains(mfn));
        assert!(!changed.is_empty(), "call {number} changes nothing");
        let untold: Vec<_> = changed.difference(&told).take(9).collect();
        assert!(untold.is_empty(), "call {number}: {untold:?} were not told");
        // Of tables that were there already, nothing beside what changed lies between.
        let known = told.iter().filter(|(mfn, _)| before.contains_key(mfn) && tree.contains(mfn));
        let ends: BTreeMap<Mfn, (usize, usize)> =
            changed.iter().fold(BTreeMap::new(), |mut ends, (mfn, entry)| {
                let end = ends.entry(*mfn).or_insert((*entry, *entry));
                *end = (end.0.min(*entry), end.1.max(*entry));
                ends
            });
        for (mfn, entry) in known {
            let (first, last) = ends.get(mfn).copied().unwrap_or((1, 0));
            assert!((first..=last).contains(entry), "call {number}: {mfn} entry {entry} was not written");
        }
    }
}
