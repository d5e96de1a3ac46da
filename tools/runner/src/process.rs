//! A child that does not outlive us, however we end.

use std::process::Command;

/// Has the kernel kill the child when the thread that starts it is gone, even after SIGKILL. Elsewhere than
/// on Linux the child is ended by [`crate::run::Run`]'s drop and by the signal flags of [`crate::interrupt`]
/// alone.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub(crate) fn die_with_parent(command: &mut Command) {
    use std::io;
    use std::os::unix::process::CommandExt;

    let parent = std::process::id();
    let after_fork = move || {
        // SAFETY: prctl with PR_SET_PDEATHSIG takes a signal number and touches no memory of ours.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: getppid has no preconditions. The parent may have gone before prctl; then nobody would send
        // the signal.
        if u32::try_from(unsafe { libc::getppid() }) != Ok(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes two system
    // calls, and its errors hold a number: it neither allocates nor locks.
    unsafe { command.pre_exec(after_fork) };
}

/// Nothing of the kind here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn die_with_parent(_command: &mut Command) {}
