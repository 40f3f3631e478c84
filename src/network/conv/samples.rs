//! Memory for samples: whole cache lines, so that no vector lies in two, on large pages where there are many. A network
//! goes through more memory than a processor knows ordinary pages of.

/// A cache line.
#[derive(Clone, Copy, PartialEq)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

const LINE: usize = 16;

/// Samples that begin with a cache line.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Samples {
    lines: Vec<Line>,
    len: usize,
}

impl Samples {
    pub(super) fn zeros(len: usize) -> Self {
        let count = len.div_ceil(LINE);
        let mut lines = Vec::with_capacity(count);
        ask_for_large_pages(lines.spare_capacity_mut());
        lines.resize(count, Line([0.0; LINE]));
        Self { lines, len }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn clear(&mut self) {
        self.lines.fill(Line([0.0; LINE]));
    }

    pub(super) fn as_ptr(&self) -> *const f32 {
        self.lines.as_ptr().cast()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.lines.as_mut_ptr().cast()
    }
}

impl From<&[f32]> for Samples {
    fn from(samples: &[f32]) -> Self {
        let mut result = Self::zeros(samples.len());
        for (line, samples) in result.lines.iter_mut().zip(samples.chunks(LINE)) {
            line.0[..samples.len()].copy_from_slice(samples);
        }
        result
    }
}

/// For memory that has not been touched yet.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn ask_for_large_pages<T>(memory: &mut [std::mem::MaybeUninit<T>]) {
    /// Those of x86-64, and of arm64 with ordinary pages of 4 KB. Of another size, the system gives what it can.
    const LARGE: usize = 2 << 20;
    let range = memory.as_mut_ptr_range();
    let start = range.start.addr().next_multiple_of(LARGE);
    let end = range.end.addr() / LARGE * LARGE;
    if start < end {
        let from = range.start.with_addr(start).cast();
        // SAFETY: whole pages of this memory, of which only how it is kept changes. A refusal leaves ordinary pages.
        unsafe { libc::madvise(from, end - start, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn ask_for_large_pages<T>(_: &mut [std::mem::MaybeUninit<T>]) {}
