//! Ways to break the code on purpose, here and in the policy above, to show that whoever explores it notices. Without the feature `faults` nothing is
//! ever broken, and nothing of this is left in the code.

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Fault {
    /// A refused move leaves its mappings in the target.
    SkipUndoMap = 1,
    /// A refused move leaves requesters that were switched where they are.
    SkipSwitchBack,
    /// Regions are unmapped in the source before the requesters are switched.
    UnmapFirst,
    /// Of several devices that move, the last one's requester is not switched.
    ForgetRequester,
    /// Devices behind one bridge are not taken for a group.
    ForgetAlias,
    /// Devices of one region, or of regions that overlap, are not taken for a group.
    IgnoreOverlap,
    /// A region that other devices of the old owner still use is unmapped there with the first that leaves.
    IgnoreCount,
    /// What the last device leaves behind stays mapped.
    LeaveMapping,
    /// A domain that maps the region on its own account is not noticed.
    IgnoreReached,
    /// A new device goes to the hardware domain wherever its group is.
    IgnoreGroupOfNew,
    /// A device's quarantine has no regions.
    EmptyQuarantine,
    /// A destroyed domain's devices stay attached to its tables.
    ForgetDevices,
    /// A device that goes away stays attached.
    StayAttached,
    /// Flushes are left out.
    SkipFlush,
    /// The context cache is not invalidated when an entry changes.
    SkipContextFlush,
    /// 1:1 mappings replace what is in their way.
    MapOverOccupied,
    /// Removing 1:1 mappings removes what the domain mapped 1:1 by itself, too.
    RemovePreexisting,
    /// Page-table frames that were reserved are lost when there are too few.
    LeakFrames,
    /// Of two tables only the CPU's is unmapped.
    ForgetSecondTable,
}

#[cfg(feature = "faults")]
static BROKEN: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(0);

/// Breaks the code in this way from now on, all over the process; `None` mends it.
#[cfg(feature = "faults")]
pub fn break_code(fault: Option<Fault>) {
    BROKEN.store(fault.map_or(0, |fault| fault as u32), core::sync::atomic::Ordering::Relaxed);
}

/// Whether the code is broken in this way.
#[inline]
#[must_use]
pub fn is_broken(fault: Fault) -> bool {
    #[cfg(feature = "faults")]
    return BROKEN.load(core::sync::atomic::Ordering::Relaxed) == fault as u32;
    #[cfg(not(feature = "faults"))]
    {
        let _ = fault;
        false
    }
}
