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

/// The CPUs that this thread may run on.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    sched_getaffinity(None)
        .map_or_else(|_| Vec::new(), |set| (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Can no two threads run at a time, for their CPU set or for a quota?
pub(crate) fn has_one_processor() -> bool {
    std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1)
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

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_is_pinned_to_an_allowed_cpu_and_to_no_other() {
        // In a thread of its own: the pin stays with it and dies with it.
        let pinned = thread::spawn(|| {
            let allowed = sched_getaffinity(None).unwrap();
            let cpu = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap();
            pin_current_thread(cpu).unwrap();
            (cpu, ranges(&sched_getaffinity(None).unwrap()))
        });
        let (cpu, after) = pinned.join().unwrap();
        assert_eq!(after, cpu.to_string());
    }

    #[test]
    fn a_cpu_outside_the_set_is_refused_with_the_set_in_words() {
        let refused = pin_current_thread(usize::MAX).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        let allowed = ranges(&sched_getaffinity(None).unwrap());
        assert!(refused.to_string().ends_with(&allowed), "{refused}");
    }

    #[test]
    fn ranges_read_like_the_kernels() {
        let mut set = CpuSet::new();
        assert_eq!(ranges(&set), "");
        [0, 1, 2, 5, 7, 8, CpuSet::MAX_CPU - 1].into_iter().for_each(|cpu| set.set(cpu));
        assert_eq!(ranges(&set), format!("0-2,5,7-8,{}", CpuSet::MAX_CPU - 1));
    }
}
