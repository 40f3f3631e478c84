//! The border between C and Rust: a panic becomes a status, pointers are checked before they are used, and the
//! message of a failure is kept for `mdr_last_error`.
//!
//! Each thread has a last error of its own, so that two threads that share a model never read each other's.

use super::types::{MdrModel, MdrStatus};
use crate::{Error, Model};
use safer_ffi::c_char;
use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why a call failed: its status, and the line for `mdr_last_error`.
#[derive(Debug)]
pub(super) struct Failure {
    pub status: MdrStatus,
    pub message: String,
}

impl Failure {
    pub fn argument(message: impl Into<String>) -> Self {
        Self { status: MdrStatus::InvalidArgument, message: message.into() }
    }

    fn panicked(payload: &(dyn Any + Send)) -> Self {
        let what = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        Self { status: MdrStatus::Internal, message: format!("defect in mdr, please report it: {what}") }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error {
            Error::Io { .. } | Error::BadTiff { .. } | Error::UnsupportedTiff { .. } => MdrStatus::Io,
            Error::BadModel { .. } => MdrStatus::BadModel,
            Error::ShapeMismatch { .. } => MdrStatus::ShapeMismatch,
            Error::InvalidOption(_) => MdrStatus::InvalidOption,
            Error::Inference(_) => MdrStatus::Inference,
            Error::Cancelled => MdrStatus::Cancelled,
        };
        Self { status, message: error.to_string() }
    }
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs the body of an exported function. A panic stops here (unwinding into C would abort the host program), and
/// whatever happened is what this thread's `mdr_last_error` says next; the empty text after success.
pub(super) fn guard(body: impl FnOnce() -> Result<(), Failure>) -> MdrStatus {
    // Unwind safety: a call that failed leaves nothing behind but its out-parameters, which the caller must not
    // read after a failure, and the model, which no call changes.
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(Failure::panicked(&*payload)));
    let (status, message) = match outcome {
        Ok(()) => (MdrStatus::Ok, String::new()),
        Err(failure) => (failure.status, failure.message),
    };
    let line = CString::new(message.replace('\0', "\\0")).unwrap_or_default();
    // Fails only while the thread is being torn down, when nobody can ask any more.
    let _ = LAST_ERROR.try_with(|last| last.replace(line));
    status
}

/// This thread's last error; the empty text where there was none.
pub(super) fn last_error() -> *const c_char {
    // The text lives on the heap, where it stays until `guard` replaces it.
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr()).cast()
}

/// A pointer that is neither NULL nor misaligned; `name` is the parameter's.
pub(super) fn pointer<T>(pointer: *const T, name: &str) -> Result<*const T, Failure> {
    if pointer.is_null() {
        return Err(Failure::argument(format!("{name} is NULL")));
    }
    if !pointer.is_aligned() {
        let align = align_of::<T>();
        return Err(Failure::argument(format!("{name} is misaligned: {pointer:p} is no multiple of {align}")));
    }
    Ok(pointer)
}

/// An out-parameter, checked like [`pointer`].
pub(super) fn out<T>(parameter: *mut T, name: &str) -> Result<*mut T, Failure> {
    pointer(parameter, name).map(<*const T>::cast_mut)
}

/// `len` values at `start`.
///
/// # Safety
/// `start` is NULL, misaligned, or leads to `len` values that nobody changes during `'a`.
pub(super) unsafe fn array<'a, T>(start: *const T, len: usize, name: &str) -> Result<&'a [T], Failure> {
    let start = pointer(start, name)?;
    if len.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(Failure::argument(format!("{name}: {len} values exceed the address space")));
    }
    // SAFETY: not NULL, aligned and of a possible size, as checked above; the caller answers for the rest.
    Ok(unsafe { std::slice::from_raw_parts(start, len) })
}

/// A NUL-terminated text in UTF-8.
///
/// # Safety
/// `start` is NULL or leads to a NUL-terminated text that nobody changes during `'a`.
pub(super) unsafe fn text<'a>(start: *const c_char, name: &str) -> Result<&'a str, Failure> {
    let start = pointer(start, name)?;
    // SAFETY: not NULL, as checked above; the caller answers for the rest.
    let text = unsafe { CStr::from_ptr(start.cast()) };
    text.to_str().map_err(|error| Failure::argument(format!("{name} is not UTF-8: {error}")))
}

/// The model behind a handle.
///
/// # Safety
/// `handle` is NULL, misaligned, or came from this library and is not freed during `'a`.
pub(super) unsafe fn model<'a>(handle: *const MdrModel) -> Result<&'a Model, Failure> {
    let handle = pointer(handle, "model")?;
    // SAFETY: not NULL and aligned, as checked above; the caller answers for the rest.
    Ok(unsafe { &(*handle).0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> String {
        // SAFETY: `last_error` is NUL-terminated and stays until this thread's next guarded call.
        unsafe { CStr::from_ptr(last_error().cast()) }.to_str().expect("messages are UTF-8").to_owned()
    }

    #[test]
    fn panic_becomes_a_status() {
        let seven = 7;
        assert_eq!(guard(|| panic!("number {seven}")), MdrStatus::Internal);
        assert!(last().contains("number 7"), "{}", last());
        assert_eq!(guard(|| panic!("plain")), MdrStatus::Internal);
        assert!(last().contains("plain"), "{}", last());
        assert_eq!(guard(|| std::panic::panic_any(7)), MdrStatus::Internal);
        assert!(last().contains("no message"), "{}", last());
    }

    #[test]
    fn success_clears_the_last_error() {
        guard(|| Err(Failure::argument("wrong")));
        assert_eq!(last(), "wrong");
        guard(|| Ok(()));
        assert_eq!(last(), "");
    }

    #[test]
    fn a_nul_inside_a_message_does_not_cut_it() {
        guard(|| Err(Failure::argument("before\0after")));
        assert_eq!(last(), "before\\0after");
    }

    #[test]
    fn every_error_has_its_status() {
        let path = std::path::PathBuf::from("file");
        let cases = [
            (Error::io(&path, std::io::ErrorKind::NotFound.into()), MdrStatus::Io),
            (Error::BadTiff { path: path.clone(), message: String::new() }, MdrStatus::Io),
            (Error::UnsupportedTiff { path, message: String::new() }, MdrStatus::Io),
            (Error::BadModel { name: String::new(), message: String::new() }, MdrStatus::BadModel),
            (Error::ShapeMismatch { expected: String::new(), found: String::new() }, MdrStatus::ShapeMismatch),
            (Error::InvalidOption(String::new()), MdrStatus::InvalidOption),
            (Error::Inference(String::new()), MdrStatus::Inference),
            (Error::Cancelled, MdrStatus::Cancelled),
        ];
        for (error, status) in cases {
            let message = error.to_string();
            assert_eq!(guard(|| Err(error.into())), status);
            assert_eq!(last(), message);
        }
    }

    #[test]
    fn pointers_are_checked() {
        let values = [1_u32, 2, 3];
        let start = values.as_ptr();
        assert!(pointer(start, "p").is_ok());
        assert!(pointer(std::ptr::null::<u32>(), "p").unwrap_err().message.contains("p is NULL"));
        assert!(pointer(start.wrapping_byte_add(1), "p").unwrap_err().message.contains("misaligned"));
        // SAFETY: the first is refused before it is read, the second is what it says.
        unsafe {
            assert!(array(start, usize::MAX / 2, "p").is_err());
            assert_eq!(array(start, 3, "p").unwrap(), values);
        }
    }
}
