//! Ways to break the code under test on purpose, by name.

pub use p2m::faults::Fault;

/// All of them: name, what it breaks.
pub const FAULTS: &[(&str, Fault, &str)] = &[
    ("skip-undo-map", Fault::SkipUndoMap, "a refused move leaves its mappings in the target"),
    ("skip-switch-back", Fault::SkipSwitchBack, "a refused move leaves requesters where it had sent them"),
    (
        "unmap-first",
        Fault::UnmapFirst,
        "regions are unmapped in the source before the requesters are switched",
    ),
    ("forget-requester", Fault::ForgetRequester, "the last requester of a move is not switched"),
    ("forget-alias", Fault::ForgetAlias, "devices with one requester id are not taken for a group"),
    ("ignore-overlap", Fault::IgnoreOverlap, "devices whose regions share memory are not taken for a group"),
    ("ignore-count", Fault::IgnoreCount, "a region goes with the first of its devices that leaves"),
    ("leave-mapping", Fault::LeaveMapping, "a region stays mapped when its last device leaves"),
    ("ignore-reached", Fault::IgnoreReached, "a domain that maps the region by itself is not noticed"),
    (
        "ignore-group-of-new",
        Fault::IgnoreGroupOfNew,
        "a new device goes to the hardware domain wherever its group is",
    ),
    ("empty-quarantine", Fault::EmptyQuarantine, "quarantine has no regions"),
    ("forget-devices", Fault::ForgetDevices, "a destroyed domain's devices are not taken away from it"),
    ("stay-attached", Fault::StayAttached, "a device that goes away stays attached"),
    ("skip-flush", Fault::SkipFlush, "translations are not flushed when tables change"),
    (
        "skip-context-flush",
        Fault::SkipContextFlush,
        "cached context entries are not flushed when they change",
    ),
    ("map-over-occupied", Fault::MapOverOccupied, "a 1:1 mapping replaces what is in its way"),
    (
        "remove-preexisting",
        Fault::RemovePreexisting,
        "removing a 1:1 mapping removes what the domain had put there",
    ),
    ("leak-frames", Fault::LeakFrames, "page-table frames are lost when there are too few"),
    ("forget-second-table", Fault::ForgetSecondTable, "of two tables only the CPU's is unmapped"),
];

/// The fault of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<Fault> {
    FAULTS.iter().find(|(its, ..)| *its == name).map(|(_, fault, _)| *fault)
}

/// Breaks the code from now on, in all threads; `None` mends it. Whether it can be broken in this build.
#[must_use]
pub fn break_code(fault: Option<Fault>) -> bool {
    #[cfg(feature = "faults")]
    p2m::faults::break_code(fault);
    cfg!(feature = "faults") || fault.is_none()
}
