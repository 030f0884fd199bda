//! Pinning a thread to a CPU.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Pins the calling thread to `cpu`.
///
/// Asks first which CPUs are allowed: inside a container's cpuset the machine's CPU 0 may well be missing, and the
/// kernel's bare EINVAL would not tell. A CPU outside the set is `InvalidInput`, with the set in its text.
pub(crate) fn pin_current_thread(cpu: usize) -> io::Result<()> {
    let allowed = sched_getaffinity(None)?;
    if cpu >= CpuSet::MAX_CPU || !allowed.is_set(cpu) {
        let text = format!("CPU {cpu} is not among those this thread may run on: {}", ranges(&allowed));
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut only = CpuSet::new();
    only.set(cpu);
    Ok(sched_setaffinity(None, &only)?)
}

/// The set in the kernel's own way of writing it: `0-3,8`.
fn ranges(set: &CpuSet) -> String {
    let mut text = String::new();
    let mut cpu = 0;
    while cpu < CpuSet::MAX_CPU {
        if !set.is_set(cpu) {
            cpu += 1;
            continue;
        }
        let first = cpu;
        while cpu < CpuSet::MAX_CPU && set.is_set(cpu) {
            cpu += 1;
        }
        let separator = if text.is_empty() { "" } else { "," };
        let last = cpu - 1;
        text += &if first == last { format!("{separator}{first}") } else { format!("{separator}{first}-{last}") };
    }
    text
}
