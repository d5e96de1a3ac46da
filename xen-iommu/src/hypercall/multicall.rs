//! Several hypercalls in one (`xen/common/multicall.c`): libxenctrl sends its memory_op commands so.

use xen_abi::{Errno, MulticallEntry};

use super::GuestMemory;
use super::hypervisor::{Call, element};

/// Serves `HYPERVISOR_multicall`: reads each entry of the list at [`Call::argument`] once, has `serve` do
/// the call (number, arguments), and writes what that returned into the entry. `serve` is given the caller's
/// memory; it answers a multicall inside by `EINVAL`.
///
/// # Errors
/// `EFAULT`: the list is not the guest's, or an entry cannot be read or written; the calls before it were
/// done.
pub fn multicall<M: GuestMemory>(
    mut call: Call<'_, M>,
    count: u64,
    mut serve: impl FnMut(&mut M, u64, [u64; 6]) -> i64,
) -> Result<(), Errno> {
    let size = MulticallEntry::size(call.layout);
    // An `unsigned int` in Xen.
    let count = count & u64::from(u32::MAX);
    let offset = MulticallEntry::offsets(call.layout).result;
    let end = element(call.argument, count, size)?;
    if count > 0 && !call.memory.is_guest_address(end.saturating_sub(1)) {
        return Err(Errno::EFAULT);
    }
    for index in 0..count {
        let mut bytes = [0; MulticallEntry::SIZE];
        let address = element(call.argument, index, size)?;
        call.read(address, bytes.get_mut(..size).ok_or(Errno::EFAULT)?)?;
        let entry = MulticallEntry::from_bytes(&bytes, call.layout).map_err(|_| Errno::EFAULT)?;
        // Of a 32-bit caller's register the lower half.
        let result = serve(call.memory, entry.op, entry.args).to_le_bytes();
        let result = result.get(..call.layout.word_size()).ok_or(Errno::EFAULT)?;
        call.write(element(address, 1, offset)?, result)?;
    }
    Ok(())
}
