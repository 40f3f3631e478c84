//! mdr restores fluorescence micrographs. This is its C interface; the library is libmdr.
//!
//! Rules that hold for every function:
//!
//! - A function that can fail returns a status: 0 (MDR_STATUS_OK) or a number that says who must act. Results go
//!   through out-parameters, which are never read and are written only on success. Two exceptions: `needed` is
//!   also written with MDR_STATUS_BUFFER_TOO_SMALL, and pixels of `output` may have been written by a restoration
//!   that then failed or was cancelled.
//! - Parameters stand in the order handle, inputs, outputs. No pointer may be NULL unless its description says so.
//!   Every pointer must be aligned for its type. What can be detected of a wrong pointer (NULL, misaligned, input
//!   and output overlapping) is refused with MDR_STATUS_INVALID_ARGUMENT.
//! - `mdr_last_error` says in one line what went wrong in this thread's last call that returned a status.
//! - A model is opaque. `mdr_model_free` frees it; freeing NULL is fine. It never changes once it is loaded:
//!   several threads may use one at the same time, and the last of them frees it. It keeps up to 64 MB of the memory
//!   that it worked in for the next image: load a model once, not for every image.
//! - The caller allocates pixel and text buffers. The library returns no memory but models, and keeps no pointer
//!   that it was given once the call has returned.
//! - Text is UTF-8 that ends with NUL, paths too. Text comes out through `buffer`, `capacity` and `needed`:
//!   `needed` becomes the number of bytes with the final NUL, and where `capacity` is smaller, the status is
//!   MDR_STATUS_BUFFER_TOO_SMALL and `buffer` is left untouched. Ask with `buffer` NULL and `capacity` 0, allocate,
//!   ask again.
//! - Axes are distinct letters out of TCZYX (time, channel, Z, Y, X) in any order, Y and X among them; `shape` has
//!   one length for each, none of them 0. "YX" is a plane, "ZYX" a stack, "YXC" has its channels interleaved.
//! - Intensities are normalised per channel over the whole buffer, and taken back afterwards. NaN and infinite pixels
//!   are restored around: they stay what they are in float output; in integer output NaN becomes 0, and infinity the
//!   end of the range.
//! - Options are a JSON object; NULL or "{}" is right for nearly all. An unknown key is an error that names it.
//!   "tile": side in pixels of the tiles that the network sees; "overlap": pixels that neighbouring tiles share, at
//!   least; "threads"; "memory_limit_mb": bound on the working memory in 2^20 bytes, by default
//!   2048; "precise": true rounds as little as can be, at about half the speed; "self_ensemble": true takes the mean of
//!   the results for the image flipped and turned in eight ways (axial: four), a little nearer to the truth, in as many
//!   times the time; "channel": the one channel to restore, from 0; "pixel_size_um" and "z_step_um": calibration in
//!   micrometres, which axial restoration needs;
//!   "normalization": replaces the model's, for example {"kind":"percentile","low":2,"high":99.8}; "fitted": the
//!   statistics of each channel as `mdr_fit_planes` gives them; "task": replaces the model's, such as "axial"; "slices":
//!   true where an axial model gets XZ or YZ slices that are isotropic already.
//! - No panic leaves the library: it becomes MDR_STATUS_INTERNAL, and Rust prints where it was to stderr. The
//!   library installs no signal handler and keeps no state between calls but each thread's last error. A callback must
//!   return: no exception and no longjmp may leave it.
//! - Before anything else compare `mdr_abi_version()` with MDR_ABI_VERSION: where they differ, the library at hand is
//!   not the one that this header describes.

// Every function here takes pointers from C; what callers owe it is in the rules above, which are also the top of
// `mdr.h`, rather than in a "Safety" section of each. Bodies stand inside `guard`, in which the checks of
// `guard.rs` turn a wrong pointer into a status.
#![allow(unsafe_code, clippy::missing_safety_doc)]

mod buffer;
mod guard;
mod types;

pub use types::{MdrModel, MdrPixelType, MdrProgress, MdrReadPlane, MdrStatus, MdrWritePlane};

use crate::image::Sample;
use crate::restore::{caution, fit_planes, output_info, restore_planes};
use crate::simulate::{sample, sample_info};
use crate::tiff_io::check_tiff;
use crate::{Error, Model, PlaneIndex, Progress, RestoreOptions, models};
use buffer::{Buffer, Grid, Planes};
use guard::{Failure, array, guard, model, out, text};
use safer_ffi::layout::ReprC;
use safer_ffi::{c_char, ffi_export};
use serde::Serialize;
use serde_json::json;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Version of this interface, which `mdr_abi_version` returns too. It grows whenever a function, a number or a
/// meaning changes in a way that a program compiled earlier would notice.
#[ffi_export(untyped)]
pub const MDR_ABI_VERSION: u32 = 1;

/// A pixel type as it comes from C: any number, which must not become the enum before it is known to be one.
type AnyPixelType = <MdrPixelType as ReprC>::CLayout;

fn pixel_type(number: AnyPixelType, name: &str) -> Result<MdrPixelType, Failure> {
    [MdrPixelType::U8, MdrPixelType::U16, MdrPixelType::F32]
        .into_iter()
        .find(|&known| known as i32 == number.discriminant)
        .ok_or_else(|| {
            let number = number.discriminant;
            Failure::argument(format!("{name} {number}: expected 1 (U8), 2 (U16) or 3 (F32)"))
        })
}

/// # Safety
/// `json` is NULL or leads to a NUL-terminated text.
unsafe fn options(json: *const c_char) -> Result<RestoreOptions, Failure> {
    if json.is_null() {
        return Ok(RestoreOptions::default());
    }
    // SAFETY: the caller's promise.
    let json = unsafe { text(json, "options") }?;
    // By way of a map, since a struct could be read from an array too, which the header does not offer.
    serde_json::from_str(json)
        .and_then(|object: serde_json::Map<_, _>| serde_json::from_value(object.into()))
        .map_err(|error| Error::InvalidOption(format!("options: {error}")).into())
}

/// Writes `value` as JSON by the rule for text buffers.
///
/// # Safety
/// `buffer` leads to `capacity` bytes, or is NULL with a capacity of 0; `needed` is NULL or an out-parameter.
unsafe fn write_json(
    value: &impl Serialize,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> Result<(), Failure> {
    let needed = if needed.is_null() { None } else { Some(out(needed, "needed")?) };
    if capacity > 0 {
        out(buffer, "buffer")?;
    }
    let internal = |error| Failure { status: MdrStatus::Internal, message: format!("no JSON: {error}") };
    // JSON writes U+0000 as an escape, so that the only NUL is the last byte.
    let mut json = serde_json::to_vec(value).map_err(internal)?;
    json.push(0);
    // SAFETY: an out-parameter, checked above.
    needed.inspect(|needed| unsafe { needed.write(json.len()) });
    if capacity < json.len() {
        let message = format!("buffer has {capacity} bytes, {} are needed", json.len());
        return Err(Failure { status: MdrStatus::BufferTooSmall, message });
    }
    // SAFETY: `buffer` is not NULL and has at least this many bytes; `json` is our own memory.
    unsafe { buffer.cast::<u8>().copy_from_nonoverlapping(json.as_ptr(), json.len()) };
    Ok(())
}

fn hand_out(model: crate::Result<Model>, out: *mut *mut MdrModel) -> Result<(), Failure> {
    let handle = Box::into_raw(Box::new(MdrModel(model?)));
    // SAFETY: `out` was checked by the caller of this function, before the work was done.
    unsafe { out.write(handle) };
    Ok(())
}

/// The MDR_ABI_VERSION of this library; compare it with the header's before anything else.
#[ffi_export]
pub extern "C" fn mdr_abi_version() -> u32 {
    MDR_ABI_VERSION
}

/// Version of mdr, such as "0.1.0"; static text, never NULL.
#[ffi_export]
pub extern "C" fn mdr_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// What went wrong in this thread's last call that returned a status; the empty text where it succeeded.
///
/// Never NULL. The text stays valid until this thread's next call that returns a status.
#[ffi_export]
pub extern "C" fn mdr_last_error() -> *const c_char {
    guard::last_error()
}

/// The models that are built into the library: a JSON array with one object for each, the facts that
/// `mdr_model_facts` gives.
///
/// `buffer`: where the text goes; may be NULL if `capacity` is 0.
/// `capacity`: bytes that `buffer` has.
/// `needed`: becomes the bytes that the text takes with its final NUL; may be NULL.
#[ffi_export]
pub unsafe extern "C" fn mdr_builtin_models(buffer: *mut c_char, capacity: usize, needed: *mut usize) -> MdrStatus {
    guard(|| {
        let mut facts = Vec::new();
        for task in models::tasks() {
            facts.push(Model::builtin(task)?.facts().clone());
        }
        // SAFETY: the caller keeps the rules for text buffers.
        unsafe { write_json(&facts, buffer, capacity, needed) }
    })
}

/// Loads the built-in model for a task.
///
/// `task`: "denoise", "axial" or "super-resolve".
/// `out`: becomes the model, to be freed with `mdr_model_free`.
#[ffi_export]
pub unsafe extern "C" fn mdr_model_builtin(task: *const c_char, out: *mut *mut MdrModel) -> MdrStatus {
    guard(|| {
        // SAFETY: the caller keeps the rules for text.
        let task = unsafe { text(task, "task") }?;
        let out = self::out(out, "out")?;
        hand_out(task.parse().and_then(Model::builtin), out)
    })
}

/// Loads a model from an .onnx file or a bioimage.io package (a folder, its rdf.yaml, or a .zip).
///
/// `path`: the file or folder, in UTF-8 on every system.
/// `out`: becomes the model, to be freed with `mdr_model_free`.
#[ffi_export]
pub unsafe extern "C" fn mdr_model_load(path: *const c_char, out: *mut *mut MdrModel) -> MdrStatus {
    guard(|| {
        // SAFETY: the caller keeps the rules for text.
        let path = unsafe { text(path, "path") }?;
        let out = self::out(out, "out")?;
        hand_out(Model::load(Path::new(path)), out)
    })
}

/// Loads a model from the bytes of an .onnx file.
///
/// `name`: what messages call the model.
/// `bytes`: the file's content; not needed any more once this returns.
/// `len`: number of bytes.
/// `out`: becomes the model, to be freed with `mdr_model_free`.
#[ffi_export]
pub unsafe extern "C" fn mdr_model_from_memory(
    name: *const c_char,
    bytes: *const u8,
    len: usize,
    out: *mut *mut MdrModel,
) -> MdrStatus {
    guard(|| {
        // SAFETY: the caller keeps the rules for text, and `bytes` leads to `len` bytes.
        let (name, bytes) = unsafe { (text(name, "name")?, array(bytes, len, "bytes")?) };
        let out = self::out(out, "out")?;
        hand_out(Model::from_bytes(name, bytes), out)
    })
}

/// Frees a model. No other thread may be using it. Leaves the last error as it is.
///
/// `model`: may be NULL; not usable any more afterwards.
#[ffi_export]
pub unsafe extern "C" fn mdr_model_free(model: *mut MdrModel) {
    // Not by `guard`: a program frees what it has and only then asks why a call failed. A model whose destructor
    // panics is a defect of which nobody need hear.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        if out(model, "model").is_ok() {
            // SAFETY: the handle came from `hand_out`, and the caller frees it once.
            drop(unsafe { Box::from_raw(model) });
        }
    }));
}

/// Facts about a model as a JSON object: name, task, axes, channels, scale (output pixels per input pixel),
/// normalization, axial_step, tile_multiple, halo, description, license, authors, trained_on, method, metrics, scores
/// (the metrics in words), source, sha256.
/// Take what you know and ignore the rest: later versions add keys.
///
/// `model`: the model.
/// `buffer`: where the text goes; may be NULL if `capacity` is 0.
/// `capacity`: bytes that `buffer` has.
/// `needed`: becomes the bytes that the text takes with its final NUL; may be NULL.
#[ffi_export]
pub unsafe extern "C" fn mdr_model_facts(
    model: *const MdrModel,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> MdrStatus {
    guard(|| {
        // SAFETY: the handle came from this library; the caller keeps the rules for text buffers.
        unsafe { write_json(self::model(model)?.facts(), buffer, capacity, needed) }
    })
}

/// Lengths of the result of `mdr_restore`, from which the caller allocates `output`. Runs no network.
///
/// `model`: the model.
/// `axes`: axes of the input.
/// `shape`: length of each axis of the input.
/// `options`: JSON object; may be NULL.
/// `out_shape`: becomes the length of each axis of the result, which has the same axes in the same order; may be
/// the same array as `shape`.
#[ffi_export]
pub unsafe extern "C" fn mdr_output_shape(
    model: *const MdrModel,
    axes: *const c_char,
    shape: *const usize,
    options: *const c_char,
    out_shape: *mut usize,
) -> MdrStatus {
    guard(|| {
        let out_shape = self::out(out_shape, "out_shape")?;
        // SAFETY: the handle came from this library; the caller keeps the rules for text, axes and shape.
        let (model, grid, options) =
            unsafe { (self::model(model)?, Grid::new(text(axes, "axes")?, shape)?, self::options(options)?) };
        let result = output_info(model, &grid.info(crate::PixelType::F32)?, &options)?;
        let result = grid.of_result(&result)?;
        // SAFETY: `out_shape` has as many elements as there are axes.
        unsafe { out_shape.copy_from_nonoverlapping(result.lengths().as_ptr(), result.lengths().len()) };
        Ok(())
    })
}

/// What the result of `mdr_restore` will be, as a JSON object: axes and shape in the order of `axes`, pixel_size_um
/// and z_step_um (micrometres, null where unknown; they follow from the options' calibration), provenance (model and
/// options in one line, for the metadata of the image that is made of the result), and caution (one line for the user
/// where the image is not such as the model was trained for, else null). Runs no network.
///
/// `model`: the model.
/// `axes`: axes of the input.
/// `shape`: length of each axis of the input.
/// `options`: JSON object; may be NULL.
/// `buffer`: where the text goes; may be NULL if `capacity` is 0.
/// `capacity`: bytes that `buffer` has.
/// `needed`: becomes the bytes that the text takes with its final NUL; may be NULL.
#[ffi_export]
pub unsafe extern "C" fn mdr_output_info(
    model: *const MdrModel,
    axes: *const c_char,
    shape: *const usize,
    options: *const c_char,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> MdrStatus {
    guard(|| {
        // SAFETY: the handle came from this library; the caller keeps the rules for text, axes and shape.
        let (model, grid, options) =
            unsafe { (self::model(model)?, Grid::new(text(axes, "axes")?, shape)?, self::options(options)?) };
        let input = grid.info(crate::PixelType::F32)?;
        let info = output_info(model, &input, &options)?;
        let result = grid.of_result(&info)?;
        let json = json!({
            "axes": result.letters(),
            "shape": result.lengths(),
            "pixel_size_um": info.pixel_size_um,
            "z_step_um": info.z_step_um,
            "provenance": info.provenance,
            "caution": caution(model, &input, &options),
        });
        // SAFETY: the caller keeps the rules for text buffers.
        unsafe { write_json(&json, buffer, capacity, needed) }
    })
}

/// Restores an image.
///
/// `model`: the model.
/// `input`: its samples; nobody may change them meanwhile.
/// `input_type`: type of the samples of `input`.
/// `axes`: axes of `input`, slowest first where `strides` is NULL.
/// `shape`: length of each axis.
/// `strides`: for each axis the distance of neighbours in `input`, in samples (not bytes), possibly negative, counted
/// from `input`, which is the sample of index 0 along every axis; NULL if there are no gaps and the last axis runs
/// fastest.
/// `options`: JSON object; may be NULL.
/// `progress`: called in the calling thread, at the start, after every tile and every 50 ms between, with the work done
/// and the work in all, in hundredths of a tile, and `user`; 0 cancels, anything else goes on; may be NULL.
/// `user`: handed to `progress`; may be NULL.
/// `output`: receives the result without gaps, axes in the order of `axes`, lengths of `mdr_output_shape`; must not
/// overlap `input`, the gaps between its samples included.
/// `output_type`: type of the samples of `output`; integers are rounded (halves away from zero) and clamped.
/// `output_len`: samples (not bytes) of `output`; must be the product of those lengths.
#[ffi_export]
pub unsafe extern "C" fn mdr_restore(
    model: *const MdrModel,
    input: *const c_void,
    input_type: AnyPixelType,
    axes: *const c_char,
    shape: *const usize,
    strides: *const i64,
    options: *const c_char,
    progress: MdrProgress,
    user: *mut c_void,
    output: *mut c_void,
    output_type: AnyPixelType,
    output_len: usize,
) -> MdrStatus {
    guard(|| {
        let (input_type, output_type) =
            (pixel_type(input_type, "input_type")?, pixel_type(output_type, "output_type")?);
        // SAFETY: the handle came from this library; the caller keeps the rules for text, axes and shape.
        let (model, grid, options) =
            unsafe { (self::model(model)?, Grid::new(text(axes, "axes")?, shape)?, self::options(options)?) };
        let strides = match strides.is_null() {
            true => None,
            // SAFETY: one stride for each axis, by the caller's promise.
            false => Some(unsafe { array(strides, grid.lengths().len(), "strides") }?),
        };
        let mut source = Buffer::new(input, input_type, &grid, strides, "input")?;

        let result = grid.of_result(&output_info(model, &grid.info(crate::PixelType::F32)?, &options)?)?;
        if result.len()? != output_len {
            let expected =
                format!("an output of {} samples ({} {:?})", result.len()?, result.letters(), result.lengths());
            return Err(Error::ShapeMismatch { expected, found: format!("output_len {output_len}") }.into());
        }
        let mut sink = Buffer::new(output, output_type, &result, None, "output")?;
        if source.overlaps(&sink) {
            return Err(Failure::argument("input and output overlap"));
        }

        Ok(restore_planes(model, &mut source, &mut sink, &options, &mut on_progress(progress, user))?)
    })
}

/// Restores an image that is nowhere in memory as a whole: `read` hands over its planes, `write` takes those of the
/// result. The pixels are those of `mdr_restore`.
///
/// Both functions are called in the calling thread, with the time point, channel and Z of the plane, each from 0,
/// with memory for its samples (Y rows of X samples, without gaps, valid during the call), and with `user`. 0 stops
/// the restoration, which then returns MDR_STATUS_CANCELLED; anything else goes on.
///
/// `model`: the model.
/// `read`: fills the memory with a plane of the image; asked for each plane several times, for the statistics of the
/// normalisation and for the network.
/// `input_type`: type of the samples that `read` hands over.
/// `axes`: axes of the image.
/// `shape`: length of each axis.
/// `options`: JSON object; may be NULL.
/// `progress`: called in the calling thread, at the start, after every tile and every 50 ms between, with the work done
/// and the work in all, in hundredths of a tile, and `user`; 0 cancels, anything else goes on; may be NULL.
/// `user`: handed to `read`, `progress` and `write`; may be NULL.
/// `write`: takes a plane of the result, whose lengths are those of `mdr_output_shape`; called once for each, in the
/// order T, Z, C, C running fastest.
/// `output_type`: type of the samples that `write` takes; integers are rounded (halves away from zero) and clamped.
#[ffi_export]
pub unsafe extern "C" fn mdr_restore_planes(
    model: *const MdrModel,
    read: MdrReadPlane,
    input_type: AnyPixelType,
    axes: *const c_char,
    shape: *const usize,
    options: *const c_char,
    progress: MdrProgress,
    user: *mut c_void,
    write: MdrWritePlane,
    output_type: AnyPixelType,
) -> MdrStatus {
    guard(|| {
        let (input_type, output_type) =
            (pixel_type(input_type, "input_type")?, pixel_type(output_type, "output_type")?);
        let read = read.ok_or_else(|| Failure::argument("read is NULL"))?;
        let write = write.ok_or_else(|| Failure::argument("write is NULL"))?;
        // SAFETY: the handle came from this library; the caller keeps the rules for text, axes and shape.
        let (model, grid, options) =
            unsafe { (self::model(model)?, Grid::new(text(axes, "axes")?, shape)?, self::options(options)?) };
        let result = grid.of_result(&output_info(model, &grid.info(crate::PixelType::F32)?, &options)?)?;
        // SAFETY: here and below the caller's function with the caller's argument.
        let mut source = Planes::new(input_type, &grid, |PlaneIndex { t, c, z }, samples| unsafe {
            read(t as u64, c as u64, z as u64, samples, user) != 0
        })?;
        let mut sink = Planes::new(output_type, &result, |PlaneIndex { t, c, z }, samples| unsafe {
            write(t as u64, c as u64, z as u64, samples, user) != 0
        })?;
        Ok(restore_planes(model, &mut source, &mut sink, &options, &mut on_progress(progress, user))?)
    })
}

/// Takes the statistics by which `mdr_restore` normalises an image, so that a part of the image (a preview, one of
/// many blocks) can be restored as the whole would be: given as the option "fitted", they replace the part's own. Runs
/// no network.
///
/// `model`: the model.
/// `read`: as in `mdr_restore_planes`; 0 stops with MDR_STATUS_CANCELLED.
/// `input_type`: type of the samples that `read` hands over.
/// `axes`: axes of the image.
/// `shape`: length of each axis.
/// `options`: JSON object; may be NULL.
/// `user`: handed to `read`; may be NULL.
/// `buffer`: where the text goes, a JSON array with one object for each channel that is restored; may be NULL if
/// `capacity` is 0. The statistics are taken in every call: 100 bytes for each channel are enough for one to do.
/// `capacity`: bytes that `buffer` has.
/// `needed`: becomes the bytes that the text takes with its final NUL; may be NULL.
#[ffi_export]
pub unsafe extern "C" fn mdr_fit_planes(
    model: *const MdrModel,
    read: MdrReadPlane,
    input_type: AnyPixelType,
    axes: *const c_char,
    shape: *const usize,
    options: *const c_char,
    user: *mut c_void,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> MdrStatus {
    guard(|| {
        let input_type = pixel_type(input_type, "input_type")?;
        let read = read.ok_or_else(|| Failure::argument("read is NULL"))?;
        // SAFETY: the handle came from this library; the caller keeps the rules for text, axes and shape.
        let (model, grid, options) =
            unsafe { (self::model(model)?, Grid::new(text(axes, "axes")?, shape)?, self::options(options)?) };
        // SAFETY: the caller's function with the caller's argument.
        let mut source = Planes::new(input_type, &grid, |PlaneIndex { t, c, z }, samples| unsafe {
            read(t as u64, c as u64, z as u64, samples, user) != 0
        })?;
        let fitted = fit_planes(model, &mut source, &options, &mut || true)?;
        // SAFETY: the caller keeps the rules for text buffers.
        unsafe { write_json(&fitted, buffer, capacity, needed) }
    })
}

/// The caller's progress callback as the engine's.
fn on_progress(progress: MdrProgress, user: *mut c_void) -> impl FnMut(Progress) -> bool {
    move |Progress { done, total }| match progress {
        // SAFETY: the caller's function with the caller's argument.
        Some(progress) => unsafe { progress(done, total, user) != 0 },
        None => true,
    }
}

/// Reads a TIFF file from its first to its last pixel and keeps nothing: for programs whose own readers take a file that
/// is cut off or damaged for a whole one, which is MDR_STATUS_IO here. A TIFF of a kind that mdr does not read passes.
///
/// `path`: the file, in UTF-8 on every system.
#[ffi_export]
pub unsafe extern "C" fn mdr_check_tiff(path: *const c_char) -> MdrStatus {
    guard(|| {
        // SAFETY: the caller keeps the rules for text.
        let path = unsafe { text(path, "path") }?;
        Ok(check_tiff(path)?)
    })
}

/// Simulates an image with the defect that a task restores, for whoever has none at hand. The same on every call.
///
/// `task`: "denoise", "axial" or "super-resolve".
/// `output`: receives the samples without gaps; may be NULL if `output_len` is 0, and then only the text is written.
/// `output_len`: samples (not bytes) of `output`: 0, or the product of `shape`.
/// `buffer`: where the text goes, a JSON object: axes, shape, pixel_size_um and z_step_um (null for a plane); may be NULL
/// if `capacity` is 0; not asked for where samples are and `capacity` is 0.
/// `capacity`: bytes that `buffer` has.
/// `needed`: becomes the bytes that the text takes with its final NUL; may be NULL.
#[ffi_export]
pub unsafe extern "C" fn mdr_sample(
    task: *const c_char,
    output: *mut u16,
    output_len: usize,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> MdrStatus {
    guard(|| {
        // SAFETY: the caller keeps the rules for text.
        let task = unsafe { text(task, "task") }?.parse()?;
        let info = sample_info(task);
        let lengths: Vec<usize> = info.axes.as_str().chars().map(|letter| info.shape.axis(letter)).collect();
        let json = json!({
            "axes": info.axes.as_str(),
            "shape": lengths,
            "pixel_size_um": info.pixel_size_um,
            "z_step_um": info.z_step_um,
        });
        let mut samples = Vec::new();
        if output_len > 0 {
            out(output, "output")?;
            if output_len != info.shape.len() {
                let (expected, found) = (format!("{} samples", info.shape.len()), format!("output_len {output_len}"));
                return Err(Error::ShapeMismatch { expected, found }.into());
            }
            samples = sample(task)?.samples;
        }
        // The text first: where it does not fit, nothing is written.
        if output_len == 0 || capacity > 0 {
            // SAFETY: the caller keeps the rules for text buffers.
            unsafe { write_json(&json, buffer, capacity, needed) }?;
        }
        for (i, &sample) in samples.iter().enumerate() {
            // SAFETY: `output` has `output_len` samples by the caller's promise, as many as the image.
            unsafe { output.add(i).write(u16::from_f32(sample)) };
        }
        Ok(())
    })
}

/// The text of `mdr.h`. Lives here because safer-ffi sees the functions of the crate that calls it alone; called by
/// `tests/header.rs`.
#[cfg(feature = "headers")]
#[expect(clippy::missing_panics_doc, reason = "writing into memory cannot fail")]
pub fn header() -> String {
    let rules = include_str!("mod.rs").lines().map_while(|line| line.strip_prefix("//!"));
    let banner: String = rules.map(|line| format!(" *{line}\n")).collect();
    let banner = format!("/*! \\file\n{banner} *\n * Generated from src/ffi by safer-ffi: do not edit.\n */");
    let mut text = Vec::new();
    safer_ffi::headers::builder()
        .with_guard("MDR_H")
        .with_banner(&banner)
        .to_writer(&mut text)
        .generate()
        .expect("a Vec takes every byte");
    String::from_utf8(text).expect("made of Rust strings")
}
