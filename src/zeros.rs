//! Memory that is zero. The system gives much of it only when it is used, and then on large pages, as giving a small one
//! takes as long as filling it. Where there is none, `vec!` would end the program; this is an error.
#![allow(unsafe_code)] // beside `ffi` and the kernels: advice to the system, which nobody wraps

use bytemuck::Zeroable;

/// Bytes of a large page of x86-64, and of arm64 with ordinary pages of 4 KB. Where they have another size, the system
/// gives what it can.
pub(crate) const LARGE_PAGE: usize = 2 << 20;

/// The system has not so much memory.
#[derive(Debug)]
pub(crate) struct OutOfMemory;

/// So many zeros.
pub(crate) fn zeros<T: Zeroable>(len: usize) -> Result<Vec<T>, OutOfMemory> {
    let mut memory = bytemuck::try_zeroed_vec(len).map_err(|()| OutOfMemory)?;
    ask_for_large_pages(&mut memory);
    Ok(memory)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn ask_for_large_pages<T>(memory: &mut [T]) {
    let range = memory.as_mut_ptr_range();
    let start = range.start.addr().next_multiple_of(LARGE_PAGE);
    let end = range.end.addr() / LARGE_PAGE * LARGE_PAGE;
    if start < end {
        let from = range.start.with_addr(start).cast();
        // SAFETY: whole pages of this memory, of which only how it is kept changes. A refusal leaves ordinary pages.
        unsafe { libc::madvise(from, end - start, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn ask_for_large_pages<T>(_: &mut [T]) {}
