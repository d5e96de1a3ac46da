//! Exhaustive exploration of the real code: every call in every state that a small machine can get into, with
//! a failure at every frame allocation and at every invalidation, and each state checked.
//! `cargo xtask explore` runs it; see its `--help`.
//!
//! What runs is the policy, the page tables and the VT-d driver themselves, on frames, registers and a
//! remapping unit in software. All their objects live in one block of memory at fixed addresses ([`memory`]),
//! so that a state is gone back to by copying bytes; every so many states one is reached anew from boot on a
//! second machine, and must be the same.
//!
//! - The machines ([`boards`]) and what is explored on each ([`settings`]). Small ones are explored until
//!   there is no state left, with no bound on calls in a row; the others as far as there is time.
//! - The calls ([`calls`]): create, destroy, assign (strict, relaxed; to a domain, to quarantine, to the
//!   hardware domain), assign a group, and deassign, for each device and for sets of them; flush; add,
//!   remove, a bridge that appears with late scopes; and a toolstack that puts RAM in a region's place, maps
//!   it 1:1 by itself, and unmaps that.
//! - The failures ([`hardware::Failure`]): no frames from the k-th allocation on; the k-th invalidation times
//!   out, or all from it on do, or the queue reports an error there; the k-th device's DMA does not go off;
//!   for every k; a device's own TLB does not answer. Calls are made again after each, so what they owe must
//!   be done then. Table writes cannot fail, so there hardware looks instead: after each, all devices are
//!   tried at all frames, with caches that keep all they may.
//! - What must hold ([`invariants`]): in each state, a group has one owner and each member is with it or
//!   waits; all ids of a requester go alike; no frame of a region is reachable from two domains, nor by who
//!   waits with its DMA on while a guest has it; owners, context entries, domain ids and both tables agree;
//!   tables hold what is needed and no more; caches are not behind. During a call, no device loses its
//!   region, none gets at a third table, none walks a freed one, and no frame is freed or used anew that
//!   something cached came through. A call that flushed leaves nothing old cached, whatever failed before it.
//!   A refused call leaves all as it was. From each state all can be given back, and nothing is left.
//!
//! # Bounds
//! - States are told apart by what can be observed ([`state`]), not by the numbers of frames and ids, nor by
//!   the order of lists; of frames that wait for a flush only by whether there are any.
//! - Failures come one to a call (or without end), and, but in settings that say otherwise, only in states of
//!   fewer calls than `--failures` says. Frames run out for good within a call. An invalidation that times
//!   out is never done later.
//! - One unit, with a queue; legacy context entries. In some settings it caches what is not present, does not
//!   snoop, or has entries replaced by words.
//! - A device's own TLB is checked for what it keeps when a call is over, not at each moment.
//! - Devices are tried at chosen frames of the regions ([`machine::Board::probes`]); tables are read as a
//!   whole.
//! - A device that was removed does no DMA, nor does a bridge of its own.
//! - A toolstack maps a region by itself only while nobody else reaches it, and does not unmap that while
//!   devices there use it. What a guest has mapped by itself, its toolstack takes back before a device of the
//!   region waits.
//! - A large page that a refused call had to cut stays cut (see `p2m::AddressSpace::map_identity`): refused
//!   calls are held to where tables lead, not to the sizes of pages. A requester's quarantine, once made for
//!   a second device that was then refused, stays until its devices go.
//! - A requester that hardware did not take back, and said so, may be elsewhere than its owner until it is
//!   fetched back.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::needless_range_loop,
    clippy::expect_used,
    clippy::panic,
    reason = "a tool for tests, which may end in a panic where it is wrong itself"
)]

pub mod arguments;
pub mod boards;
pub mod calls;
pub mod hardware;
pub mod invariants;
mod late;
pub mod machine;
pub mod make;
pub mod memory;
pub mod rules;
pub mod search;
pub mod settings;
pub mod state;
pub mod world;
