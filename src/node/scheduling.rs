//! How the kernel schedules the threads of a node, where several share a CPU: data cores go first.
//!
//! A data core runs for some microseconds at a time and then waits for its clients; the control core and the kernel's
//! threads that write its files run for longer. A data core that wakes must not wait for the end of their slices, and when
//! it wakes the control core, that is to come when the data core has nothing more to do: so one write of the log has what
//! many clients have sent.
//!
//! That a thread goes first does not help it if it has had more than its share. Half of a CPU is too little for a data core
//! while everything is being copied for a replica, so the control core's share is smaller ([`NICE`]). It cannot be starved:
//! when feeds are behind by more than they may, clients' writes wait (`net/backpressure.rs`).
//!
//! Nothing of this needs a privilege. A kernel that does not know slices ([`SLICE`] is heeded from Linux 6.12 on) schedules
//! as it ever does.

use std::time::Duration;

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Data,
    Control,
    /// The control core of a node in cluster mode. It does not interrupt data cores either. But what it says to others in
    /// time is what the node serves by, and a lease lasts for some hundred milliseconds: on a machine with much else to do it
    /// must not be the last.
    Member,
}

/// The slice of a data core, the shortest that there is. A thread that wakes and has a shorter slice than the one that runs
/// goes first.
const SLICE: Duration = Duration::from_micros(100);

/// The control core's niceness: a quarter of the CPU if a data core wants all of it.
const NICE: i32 = 5;

/// Says what the calling thread is; threads that the kernel starts for it inherit that.
pub(super) fn set(role: Role) {
    let (policy, slice, nice) = match role {
        Role::Data => (libc::SCHED_NORMAL, SLICE, None),
        // Such a thread does not interrupt another one when it wakes.
        Role::Control => (libc::SCHED_BATCH, Duration::ZERO, Some(NICE)),
        Role::Member => (libc::SCHED_BATCH, Duration::ZERO, None),
    };
    // SAFETY: all-zero is a valid sched_attr.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    attributes.size = size_of_val(&attributes) as u32;
    attributes.sched_policy = policy as u32;
    // SAFETY: a plain system call; this thread has a priority, so no value means an error.
    let inherited = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    attributes.sched_nice = nice.map_or(inherited, |nice| inherited.max(nice));
    attributes.sched_runtime = slice.as_nanos() as u64;
    // SAFETY: a plain system call for the calling thread; the attributes outlive it and have the size that they name.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result < 0 {
        tracing::debug!(?role, error = %std::io::Error::last_os_error(), "the scheduler is not told of the thread's role");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_that_of_the_role() {
        let normal = libc::SCHED_NORMAL;
        let batch = libc::SCHED_BATCH;
        for (role, policy) in [(Role::Control, batch), (Role::Data, normal), (Role::Member, batch)] {
            let thread = std::thread::spawn(move || {
                set(role);
                // SAFETY: a plain system call for the calling thread.
                unsafe { libc::sched_getscheduler(0) }
            });
            assert_eq!(thread.join().unwrap(), policy, "{role:?}");
        }
    }
}
