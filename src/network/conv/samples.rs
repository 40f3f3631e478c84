//! Memory for samples: from the start of a cache line on, so that no vector lies in two, and on large pages where there
//! is much of it. A network goes through more memory than a processor knows ordinary pages of.

/// Samples that begin with a cache line.
#[derive(Default)]
pub(super) struct Samples {
    /// With a line more than there are samples.
    memory: Vec<f32>,
    /// First of them.
    start: usize,
}

/// Samples of a cache line.
const LINE: usize = 16;

impl Samples {
    /// The system gives memory that is zero, and gives it when it is first used.
    pub(super) fn zeros(len: usize) -> Self {
        let mut memory = vec![0.0; len + LINE];
        ask_for_large_pages(&mut memory);
        let start = memory.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Self { memory, start }
    }

    pub(super) fn len(&self) -> usize {
        self.memory.len().saturating_sub(LINE)
    }

    pub(super) fn clear(&mut self) {
        self.memory.fill(0.0);
    }

    pub(super) fn as_ptr(&self) -> *const f32 {
        self.memory.as_ptr().wrapping_add(self.start)
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.memory.as_mut_ptr().wrapping_add(self.start)
    }

    fn as_slice(&self) -> &[f32] {
        &self.memory[self.start..][..self.len()]
    }
}

impl From<&[f32]> for Samples {
    fn from(samples: &[f32]) -> Self {
        let mut result = Self::zeros(samples.len());
        result.memory[result.start..][..samples.len()].copy_from_slice(samples);
        result
    }
}

impl PartialEq for Samples {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

/// For memory that has not been used yet.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn ask_for_large_pages(memory: &mut [f32]) {
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
fn ask_for_large_pages(_: &mut [f32]) {}
