//! Threads that do the same list of tasks together. A task is cut into items: rows, each in pieces. Every thread has its
//! part of the pieces, the same part of the columns in every task, so that it reads what it has written before and what
//! lies in its own caches; who has finished its part takes from those of others. The next task begins when all items are
//! done.
//!
//! A thread that was started may take milliseconds to come, as a machine that was idle wakes up or as all processors are
//! busy. No task waits for it: it joins with the next one when it is there.

use crate::share::{Bystander, beside};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What the threads of a team share.
struct Shared {
    /// One for each thread, whether it has come or not; none where there is but one.
    parts: Vec<Part>,
    /// Threads that have come, and those of them that have been let in.
    arrived: AtomicUsize,
    members: AtomicUsize,
    /// The task that who was let in last begins with.
    first: AtomicUsize,
    /// Members that wait, and tasks that are done.
    waiting: AtomicUsize,
    done: AtomicUsize,
    /// Whether all is done, or a member has panicked.
    over: AtomicBool,
}

/// Items taken of a thread's part of a task. A cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Part {
    taken: AtomicUsize,
}

/// One thread's place in its team.
pub(super) struct Team<'a> {
    shared: &'a Shared,
    index: usize,
    /// The task that it begins with.
    first: usize,
}

/// Turns of waiting before a thread lets others have its processor: some microseconds. They are without the hint that
/// one waits, as virtual machines take the processor from who gives it some thousand times.
const SPINS: usize = 20_000;

impl Team<'_> {
    /// Runs `work` in so many threads, one of them this one, or in as many as can be had.
    pub(super) fn run(threads: usize, work: impl Fn(&Team) + Sync) {
        let shared = &Shared {
            parts: if threads > 1 { (0..threads).map(|_| Part::default()).collect() } else { vec![] },
            arrived: AtomicUsize::new(1),
            members: AtomicUsize::new(1),
            first: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        };
        let work = &work;
        if threads == 1 {
            return shared.work(work, 0, 0);
        }
        beside(threads - 1, || shared.join(work), || shared.work(work, 0, 0));
    }

    /// Which thread this is, from 0.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// The task that it begins with.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    /// Does items of task `number`, given by row and piece, until all are done by somebody. All threads go through the
    /// same tasks in the same order, numbered from 0, each from its first one on.
    pub(super) fn share(&self, number: usize, [rows, pieces]: [usize; 2], work: impl Fn(usize, usize)) {
        let threads = self.shared.parts.len();
        if threads == 0 {
            return (0..rows).for_each(|row| (0..pieces).for_each(|piece| work(row, piece)));
        }
        for other in 0..threads {
            let index = (self.index + other) % threads;
            let (start, end) = (index * pieces / threads, (index + 1) * pieces / threads);
            loop {
                let item = self.shared.parts[index].taken.fetch_add(1, Ordering::Relaxed);
                if item >= rows * (end - start) {
                    break;
                }
                work(item / (end - start), start + item % (end - start));
            }
        }
        self.shared.meet(number);
    }
}

impl Shared {
    /// Works as a member.
    fn work(&self, work: impl Fn(&Team), index: usize, first: usize) {
        // Whoever leaves has done everything.
        let _over = Over(&self.over);
        work(&Team { shared: self, index, first });
    }

    /// Waits until this thread is let in, and works then.
    fn join(&self, work: impl Fn(&Team)) {
        let index = self.arrived.fetch_add(1, Ordering::Relaxed);
        let is_member = || self.members.load(Ordering::Acquire) > index;
        wait_until(|| is_member() || self.over.load(Ordering::Acquire));
        if is_member() {
            // Nobody else is let in before this thread has done a task.
            self.work(work, index, self.first.load(Ordering::Relaxed));
        }
    }

    /// Waits for all members after task `number`; what they have written before is then visible to all. The last one
    /// lets in who has come meanwhile.
    fn meet(&self, number: usize) {
        if self.waiting.fetch_add(1, Ordering::AcqRel) + 1 < self.members.load(Ordering::Relaxed) {
            let done = || self.done.load(Ordering::Acquire) > number;
            wait_until(|| done() || self.over.load(Ordering::Acquire));
            if !done() {
                resume_unwind(Box::new(Bystander));
            }
            return;
        }
        self.parts.iter().for_each(|part| part.taken.store(0, Ordering::Relaxed));
        self.waiting.store(0, Ordering::Relaxed);
        self.first.store(number + 1, Ordering::Relaxed);
        // In this order, as who is let in after the last task leaves at once and says that all is over. Others may go on
        // meanwhile, but not meet before this thread comes too.
        self.done.store(number + 1, Ordering::Release);
        self.members.store(self.arrived.load(Ordering::Relaxed), Ordering::Release);
    }
}

/// Says that it is over when it goes, by a panic too.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn wait_until(done: impl Fn() -> bool) {
    let mut spins = 0;
    while !done() {
        spins += 1;
        if spins > SPINS {
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn every_item_is_done_once_before_the_next_task() {
        for threads in [1, 2, 3, 8] {
            let done: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
            Team::run(threads, |team| {
                for number in team.first()..200 {
                    team.share(number, [number % 10, 5], |row, piece| {
                        done[5 * row + piece].fetch_add(1, Ordering::Relaxed);
                    });
                    let expected = |item: usize| (0..=number).filter(|number| item < 5 * (number % 10)).count();
                    // Others may be in the next task already, which adds at most one.
                    for (item, done) in done.iter().enumerate() {
                        let found = done.load(Ordering::Relaxed);
                        assert!((expected(item)..=expected(item) + 1).contains(&found), "{threads} threads, {number}");
                    }
                }
            });
        }
    }

    #[test]
    fn a_thread_joins_late() {
        // The first thread works through tasks until another has done an item; the rest is short.
        let others = AtomicUsize::new(0);
        let started = Instant::now();
        Team::run(2, |team| {
            for number in team.first()..20_000 {
                team.share(number, [4, 2], |_, _| {
                    if team.index() > 0 {
                        others.fetch_add(1, Ordering::Relaxed);
                    } else if others.load(Ordering::Relaxed) == 0 && started.elapsed() < Duration::from_secs(20) {
                        std::thread::sleep(Duration::from_micros(100));
                    }
                });
            }
        });
        assert!(others.into_inner() > 0, "nobody joined");
    }

    #[test]
    fn a_thread_may_come_when_all_is_done() {
        for round in 0..2_000 {
            let done = AtomicUsize::new(0);
            let tasks = 1 + round % 3;
            Team::run(4, |team| {
                for number in team.first()..tasks {
                    team.share(number, [2, 4], |_, _| {
                        done.fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
            assert_eq!(done.into_inner(), 8 * tasks);
        }
    }

    #[test]
    fn a_panic_ends_all_threads() {
        for row in [0, 5] {
            let done = std::panic::catch_unwind(|| {
                Team::run(3, |team| {
                    for number in team.first()..100 {
                        team.share(number, [6, 3], |at, _| assert!((number, at) != (50, row), "as expected"));
                    }
                });
            });
            assert_eq!(done.expect_err("a panic").downcast_ref(), Some(&"as expected"));
        }
    }
}
