//! Types of the C interface: enums with explicit numbers, the opaque model, the progress callback.
//!
//! This file is read by two generators, which is why it stands alone: safer-ffi writes it into `mdr.h`, and
//! cbindgen, which sees nothing but this file, is the second witness of its layouts (`tests/header.rs`).

use crate::Model;
use safer_ffi::derive_ReprC;
use std::ffi::c_void;

/// What became of a call: 0, or a number that says who must act. A number is never given a second meaning.
///
/// Treat a number that you do not know as MDR_STATUS_INTERNAL: later versions may add some.
#[derive_ReprC]
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MdrStatus {
    /// Done; the results are written.
    Ok = 0,
    /// The calling program is wrong: a pointer that is NULL, misaligned or overlaps another, text that is not
    /// UTF-8, an unknown number, a length of 0, or lengths whose product overflows.
    InvalidArgument = 1,
    /// The text buffer has less room than `needed` says; nothing was written into it.
    BufferTooSmall = 2,
    /// Image, model and buffer do not fit each other.
    ShapeMismatch = 3,
    /// An option or task is unknown, malformed, or makes no sense for this image and model.
    InvalidOption = 4,
    /// The model is damaged, contradicts itself, or uses what mdr lacks.
    BadModel = 5,
    /// The operating system refused to read or write a file, or the file is damaged.
    Io = 6,
    /// The network failed while it ran.
    Inference = 7,
    /// A callback of the caller asked to stop.
    Cancelled = 8,
    /// A defect of mdr; please report it with the text of `mdr_last_error`.
    Internal = 9,
}

/// Type of the samples in a pixel buffer, in the byte order of the machine.
#[derive_ReprC]
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MdrPixelType {
    /// `uint8_t`
    U8 = 1,
    /// `uint16_t`
    U16 = 2,
    /// `float`
    F32 = 3,
}

/// A loaded model. It never changes, so that several threads may use one at the same time.
#[derive_ReprC]
#[repr(opaque)]
pub struct MdrModel(pub(super) Model);

/// Called with the work done and the work in all, in hundredths of a tile, and the caller's `user`; 0 cancels, anything
/// else goes on. Comes at the start, after every tile, and every 50 ms while tiles are at work.
pub type MdrProgress = Option<unsafe extern "C" fn(done: u64, total: u64, user: *mut c_void) -> i32>;

/// Called for one plane: its time point, channel and Z, each from 0; memory for its samples, rows of X one after the
/// other along Y, without gaps; and the caller's `user`. It fills the memory; 0 stops, anything else goes on.
pub type MdrReadPlane =
    Option<unsafe extern "C" fn(t: u64, c: u64, z: u64, samples: *mut c_void, user: *mut c_void) -> i32>;

/// As [`MdrReadPlane`], but takes the samples, which are gone once it has returned.
pub type MdrWritePlane =
    Option<unsafe extern "C" fn(t: u64, c: u64, z: u64, samples: *const c_void, user: *mut c_void) -> i32>;

// The promise that a model may be shared, checked by the compiler.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<MdrModel>();
};
