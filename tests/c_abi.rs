//! The contract through the C interface of the library as it is built, opened at run time as the plug-ins do; and
//! what can be wrong only in C: pointers, numbers, text, buffers, threads.

mod common;

use common::contract::{Binding, Failure, Request, Samples, Type, dense};
use common::tools::{library, repository};
use libloading::Library;
use serde_json::Value;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::LazyLock;

type Handle = *mut c_void;
type Progress = Option<unsafe extern "C" fn(u64, u64, *mut c_void) -> i32>;

type ReadPlane = Option<unsafe extern "C" fn(u64, u64, u64, *mut c_void, *mut c_void) -> i32>;
type WritePlane = Option<unsafe extern "C" fn(u64, u64, u64, *const c_void, *mut c_void) -> i32>;

const OK: i32 = 0;
const INVALID_ARGUMENT: i32 = 1;
const BUFFER_TOO_SMALL: i32 = 2;
const SHAPE_MISMATCH: i32 = 3;
const INVALID_OPTION: i32 = 4;
const NAMES: [&str; 10] = [
    "Ok",
    "InvalidArgument",
    "BufferTooSmall",
    "ShapeMismatch",
    "InvalidOption",
    "BadModel",
    "Io",
    "Inference",
    "Cancelled",
    "Internal",
];
const F32: i32 = 3;

macro_rules! api {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of `mdr.h`, typed a second time by hand, as a binding in another language does it.
        struct Api {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            library: Library,
        }

        impl Api {
            fn open() -> Self {
                // SAFETY: loading libmdr runs no code of its own, and the types are those of `mdr.h`.
                unsafe {
                    let library = Library::new(library()).expect("libmdr opens");
                    Self { $($name: *library.get(stringify!($name)).expect(stringify!($name)),)* library }
                }
            }
        }
    };
}

api! {
    mdr_abi_version: fn() -> u32;
    mdr_version: fn() -> *const c_char;
    mdr_last_error: fn() -> *const c_char;
    mdr_builtin_models: fn(*mut c_char, usize, *mut usize) -> i32;
    mdr_model_builtin: fn(*const c_char, *mut Handle) -> i32;
    mdr_model_load: fn(*const c_char, *mut Handle) -> i32;
    mdr_model_from_memory: fn(*const c_char, *const u8, usize, *mut Handle) -> i32;
    mdr_model_free: fn(Handle);
    mdr_model_facts: fn(Handle, *mut c_char, usize, *mut usize) -> i32;
    mdr_output_shape: fn(Handle, *const c_char, *const usize, *const c_char, *mut usize) -> i32;
    mdr_output_info: fn(
        Handle, *const c_char, *const usize, *const c_char, *mut c_char, usize, *mut usize
    ) -> i32;
    mdr_restore: fn(
        Handle, *const c_void, i32, *const c_char, *const usize, *const i64, *const c_char, Progress, *mut c_void,
        *mut c_void, i32, usize
    ) -> i32;
    mdr_check_tiff: fn(*const c_char) -> i32;
    mdr_sample: fn(*const c_char, *mut u16, usize, *mut c_char, usize, *mut usize) -> i32;
    mdr_fit_planes: fn(
        Handle, ReadPlane, i32, *const c_char, *const usize, *const c_char, *mut c_void, *mut c_char, usize, *mut usize
    ) -> i32;
    mdr_restore_planes: fn(
        Handle, ReadPlane, i32, *const c_char, *const usize, *const c_char, Progress, *mut c_void, WritePlane, i32
    ) -> i32;
}

static API: LazyLock<Api> = LazyLock::new(Api::open);

struct Model(Handle);

// SAFETY: `mdr.h` promises that several threads may use one model.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: the handle came from the library and is freed once.
        unsafe { (API.mdr_model_free)(self.0) }
    }
}

fn last_error() -> String {
    // SAFETY: never NULL, and valid until this thread's next call.
    unsafe { CStr::from_ptr((API.mdr_last_error)()) }.to_str().expect("UTF-8").to_owned()
}

fn check(status: i32) -> Result<(), Failure> {
    match status {
        OK => {
            assert_eq!(last_error(), "", "success clears the last error");
            Ok(())
        }
        _ => Err(Failure { status: NAMES[status as usize], message: last_error() }),
    }
}

fn c(text: &str) -> CString {
    CString::new(text).expect("no NUL in tests")
}

fn loaded(load: impl FnOnce(*mut Handle) -> i32) -> Result<Model, Failure> {
    let mut handle = null_mut();
    let status = load(&mut handle);
    assert_eq!(status == OK, !handle.is_null(), "the handle is written on success only");
    check(status).map(|()| Model(handle))
}

/// Asks for the size, allocates, asks again; `call` takes buffer, capacity and needed.
fn json(mut call: impl FnMut(*mut c_char, usize, *mut usize) -> i32) -> Result<Value, Failure> {
    let mut needed = 0;
    let status = call(null_mut(), 0, &mut needed);
    if status != BUFFER_TOO_SMALL {
        return Err(check(status).expect_err("an empty buffer holds no JSON"));
    }
    let mut buffer = vec![b'?'; needed + 1];
    let short = call(buffer.as_mut_ptr().cast(), needed - 1, &mut needed);
    assert_eq!(short, BUFFER_TOO_SMALL);
    assert!(buffer.iter().all(|&byte| byte == b'?'), "a buffer that is too small is left untouched");
    check(call(buffer.as_mut_ptr().cast(), needed, null_mut()))?;
    assert_eq!(buffer.pop(), Some(b'?'), "written behind the end");
    assert_eq!(buffer.pop(), Some(0), "ends with NUL");
    assert!(!buffer.contains(&0));
    Ok(serde_json::from_slice(&buffer).expect("JSON"))
}

fn number(kind: Type) -> i32 {
    match kind {
        Type::U8 => 1,
        Type::U16 => 2,
        Type::F32 => F32,
    }
}

struct CAbi;

impl Binding for CAbi {
    type Model = Model;

    fn load(&self, path: &Path) -> Result<Model, Failure> {
        let path = c(path.to_str().expect("UTF-8"));
        // SAFETY: text and out-parameter live during the call; so below.
        loaded(|out| unsafe { (API.mdr_model_load)(path.as_ptr(), out) })
    }

    fn load_bytes(&self, name: &str, bytes: &[u8]) -> Result<Model, Failure> {
        let name = c(name);
        // SAFETY: as above.
        loaded(|out| unsafe { (API.mdr_model_from_memory)(name.as_ptr(), bytes.as_ptr(), bytes.len(), out) })
    }

    fn builtin(&self, task: &str) -> Result<Model, Failure> {
        let task = c(task);
        // SAFETY: as above.
        loaded(|out| unsafe { (API.mdr_model_builtin)(task.as_ptr(), out) })
    }

    fn facts(&self, model: &Model) -> Value {
        // SAFETY: as above.
        json(|buffer, capacity, needed| unsafe { (API.mdr_model_facts)(model.0, buffer, capacity, needed) })
            .expect("facts")
    }

    fn output_info(&self, model: &Model, request: &Request) -> Result<Value, Failure> {
        let (axes, options) = (c(request.axes), request.options.map(c));
        let options = options.as_ref().map_or(null(), |options| options.as_ptr());
        let shape = request.shape.as_ptr();
        let info = json(|buffer, capacity, needed| {
            // SAFETY: as above.
            unsafe { (API.mdr_output_info)(model.0, axes.as_ptr(), shape, options, buffer, capacity, needed) }
        })?;
        // In place, as the header allows.
        let mut lengths = request.shape.clone();
        // SAFETY: as above.
        let status = unsafe {
            let lengths = lengths.as_mut_ptr();
            (API.mdr_output_shape)(model.0, axes.as_ptr(), lengths, options, lengths)
        };
        check(status)?;
        assert_eq!(info["shape"], serde_json::json!(lengths));
        Ok(info)
    }

    fn restore(
        &self,
        model: &Model,
        request: &Request,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Samples, Failure> {
        /// `user` leads to a `&mut dyn FnMut`.
        unsafe extern "C" fn call(done: u64, total: u64, user: *mut c_void) -> i32 {
            // SAFETY: `user` is what `restore` handed in below.
            let progress = unsafe { &mut *user.cast::<&mut dyn FnMut(u64, u64) -> bool>() };
            progress(done, total).into()
        }
        let (axes, options) = (c(request.axes), request.options.map(c));
        let options = options.as_ref().map_or(null(), |options| options.as_ptr());
        let strides = request.strides.as_ref().map_or(null(), |strides| strides.as_ptr());
        let mut shape = request.shape.clone();
        // SAFETY: as above.
        let status =
            unsafe { (API.mdr_output_shape)(model.0, axes.as_ptr(), shape.as_ptr(), options, shape.as_mut_ptr()) };
        check(status)?;
        let len = shape.iter().product();
        let input: *const c_void = match &request.samples {
            Samples::U8(samples) => samples[request.start..].as_ptr().cast(),
            Samples::U16(samples) => samples[request.start..].as_ptr().cast(),
            Samples::F32(samples) => samples[request.start..].as_ptr().cast(),
        };
        let mut restored = match request.output {
            Type::U8 => Samples::U8(vec![7; len]),
            Type::U16 => Samples::U16(vec![7; len]),
            Type::F32 => Samples::F32(vec![7.0; len]),
        };
        let output: *mut c_void = match &mut restored {
            Samples::U8(samples) => samples.as_mut_ptr().cast(),
            Samples::U16(samples) => samples.as_mut_ptr().cast(),
            Samples::F32(samples) => samples.as_mut_ptr().cast(),
        };
        let mut progress = progress;
        let user = (&raw mut progress).cast();
        let (from, to) = (number(request.samples.kind()), number(request.output));
        // SAFETY: buffers are as large as shape and strides say, and everything lives during the call.
        let status = unsafe {
            let (axes, shape) = (axes.as_ptr(), request.shape.as_ptr());
            (API.mdr_restore)(model.0, input, from, axes, shape, strides, options, Some(call), user, output, to, len)
        };
        check(status).map(|()| restored)
    }
}

contract!(CAbi);

/// The same library, but for `restore`, which hands over and takes planes.
struct ByPlanes;

/// What the callbacks of [`ByPlanes`] and of the tests below work on.
struct Exchange<'a> {
    axes: String,
    input: Vec<f32>,
    shape: Vec<usize>,
    input_type: Type,
    output: Vec<f32>,
    out_shape: Vec<usize>,
    output_type: Type,
    progress: &'a mut dyn FnMut(u64, u64) -> bool,
    /// Planes as they were asked for and as they came.
    read: Vec<[u64; 3]>,
    written: Vec<[u64; 3]>,
    /// How many planes are read, or written, before a callback says stop.
    stop_at: [usize; 2],
}

impl Exchange<'_> {
    /// Positions, in an array of `shape`, of the samples of a plane.
    fn plane(axes: &str, shape: &[usize], plane: [u64; 3]) -> Vec<usize> {
        let at = |letter| axes.find(letter);
        let length = |letter| at(letter).map_or(1, |i| shape[i]);
        let strides = dense(shape);
        let mut indices = Vec::new();
        for y in 0..length('Y') {
            for x in 0..length('X') {
                let position = [('T', plane[0]), ('C', plane[1]), ('Z', plane[2]), ('Y', y as u64), ('X', x as u64)];
                let offset = |(letter, index)| at(letter).map_or(0, |i| strides[i] * index as i64);
                indices.push(position.into_iter().map(offset).sum::<i64>() as usize);
            }
        }
        indices
    }

    unsafe extern "C" fn read(t: u64, c: u64, z: u64, samples: *mut c_void, user: *mut c_void) -> i32 {
        // SAFETY: `user` is what the test handed in, `samples` has room for a plane of its type.
        unsafe {
            let this = &mut *user.cast::<Exchange>();
            for (i, at) in Self::plane(&this.axes, &this.shape, [t, c, z]).into_iter().enumerate() {
                match this.input_type {
                    Type::U8 => samples.cast::<u8>().add(i).write(this.input[at] as u8),
                    Type::U16 => samples.cast::<u16>().add(i).write(this.input[at] as u16),
                    Type::F32 => samples.cast::<f32>().add(i).write(this.input[at]),
                }
            }
            this.read.push([t, c, z]);
            (this.read.len() < this.stop_at[0]).into()
        }
    }

    unsafe extern "C" fn write(t: u64, c: u64, z: u64, samples: *const c_void, user: *mut c_void) -> i32 {
        // SAFETY: as above.
        unsafe {
            let this = &mut *user.cast::<Exchange>();
            for (i, at) in Self::plane(&this.axes, &this.out_shape, [t, c, z]).into_iter().enumerate() {
                this.output[at] = match this.output_type {
                    Type::U8 => samples.cast::<u8>().add(i).read().into(),
                    Type::U16 => samples.cast::<u16>().add(i).read().into(),
                    Type::F32 => samples.cast::<f32>().add(i).read(),
                };
            }
            this.written.push([t, c, z]);
            (this.written.len() < this.stop_at[1]).into()
        }
    }

    unsafe extern "C" fn progress(done: u64, total: u64, user: *mut c_void) -> i32 {
        // SAFETY: as above.
        unsafe { ((*user.cast::<Exchange>()).progress)(done, total).into() }
    }

    fn new<'a>(
        model: &Model,
        request: &Request,
        progress: &'a mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Exchange<'a>, Failure> {
        let mut out_shape = request.shape.clone();
        let (axes, options) = (c(request.axes), request.options.map(c));
        let options = options.as_ref().map_or(null(), |options| options.as_ptr());
        let lengths = out_shape.as_mut_ptr();
        // SAFETY: text and lengths live during the call.
        check(unsafe { (API.mdr_output_shape)(model.0, axes.as_ptr(), lengths, options, lengths) })?;
        Ok(Exchange {
            axes: request.axes.to_ascii_uppercase(),
            input: request.gathered().to_f32(),
            shape: request.shape.clone(),
            input_type: request.samples.kind(),
            output: vec![0.0; out_shape.iter().product()],
            out_shape,
            output_type: request.output,
            progress,
            read: vec![],
            written: vec![],
            stop_at: [usize::MAX; 2],
        })
    }

    fn run(&mut self, model: &Model, options: Option<&str>) -> Result<(), Failure> {
        let (axes, options) = (c(&self.axes), options.map(c));
        let options = options.as_ref().map_or(null(), |options| options.as_ptr());
        let (from, to, shape) = (number(self.input_type), number(self.output_type), self.shape.clone());
        let (read, write, progress) = (Some(Self::read as _), Some(Self::write as _), Some(Self::progress as _));
        let user = (&raw mut *self).cast();
        // SAFETY: everything lives during the call.
        check(unsafe {
            let (axes, shape) = (axes.as_ptr(), shape.as_ptr());
            (API.mdr_restore_planes)(model.0, read, from, axes, shape, options, progress, user, write, to)
        })
    }
}

impl Binding for ByPlanes {
    type Model = Model;

    fn load(&self, path: &Path) -> Result<Model, Failure> {
        CAbi.load(path)
    }

    fn load_bytes(&self, name: &str, bytes: &[u8]) -> Result<Model, Failure> {
        CAbi.load_bytes(name, bytes)
    }

    fn builtin(&self, task: &str) -> Result<Model, Failure> {
        CAbi.builtin(task)
    }

    fn facts(&self, model: &Model) -> Value {
        CAbi.facts(model)
    }

    fn output_info(&self, model: &Model, request: &Request) -> Result<Value, Failure> {
        CAbi.output_info(model, request)
    }

    fn restore(
        &self,
        model: &Model,
        request: &Request,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Samples, Failure> {
        let mut exchange = Exchange::new(model, request, progress)?;
        exchange.run(model, request.options)?;
        let output = exchange.output;
        Ok(match request.output {
            Type::U8 => Samples::U8(output.into_iter().map(|sample| sample as u8).collect()),
            Type::U16 => Samples::U16(output.into_iter().map(|sample| sample as u16).collect()),
            Type::F32 => Samples::F32(output),
        })
    }
}

mod by_planes {
    use super::{ByPlanes, common};
    use crate::contract;

    contract!(ByPlanes);
}

#[test]
fn planes_give_the_same_bytes_in_the_promised_order() {
    let model = CAbi.builtin("denoise").expect("a built-in model");
    for (axes, shape) in [("YX", vec![50, 40]), ("XZCYT", vec![30, 2, 2, 35, 2])] {
        let request = Request { output: Type::F32, ..Request::noise(Type::U16, axes, &shape) };
        let whole = CAbi.restore(&model, &request, &mut |_, _| true).expect("a restoration");
        let mut go_on = |_, _| true;
        let mut exchange = Exchange::new(&model, &request, &mut go_on).expect("an output");
        exchange.run(&model, None).expect("a restoration");
        assert_eq!(Samples::F32(exchange.output), whole);
        let mut order = exchange.written.clone();
        order.sort_by_key(|&[t, c, z]| [t, z, c]);
        order.dedup();
        assert_eq!(exchange.written, order);
        let plane_len: usize = "YX".chars().map(|letter| shape[axes.find(letter).expect("Y and X")]).product();
        assert_eq!(exchange.written.len(), shape.iter().product::<usize>() / plane_len);
    }
}

/// Statistics of the whole, as text.
fn fit(model: &Model, exchange: &mut Exchange, options: Option<&str>) -> Result<Value, Failure> {
    let (axes, options) = (c(&exchange.axes), options.map(c));
    let options = options.as_ref().map_or(null(), |options| options.as_ptr());
    let (from, shape, user) = (number(exchange.input_type), exchange.shape.clone(), (&raw mut *exchange).cast());
    let read = Some(Exchange::read as _);
    json(|buffer, capacity, needed| {
        // SAFETY: everything lives during the call.
        unsafe {
            let (axes, shape) = (axes.as_ptr(), shape.as_ptr());
            (API.mdr_fit_planes)(model.0, read, from, axes, shape, options, user, buffer, capacity, needed)
        }
    })
}

#[test]
fn statistics_taken_before_give_the_same_bytes() {
    let model = identity();
    for options in [r#""channel":null"#, r#""channel":1"#, r#""normalization":{"kind":"mean-std"}"#] {
        let given = format!("{{{options}}}");
        let request = Request::noise(Type::F32, "CZYX", &[2, 3, 20, 30]).options(&given);
        let whole = CAbi.restore(&model, &request, &mut |_, _| true).expect("a restoration");
        let mut go_on = |_, _| true;
        let mut exchange = Exchange::new(&model, &request, &mut go_on).expect("an output");
        let fitted = fit(&model, &mut exchange, Some(&given)).expect("statistics");
        let again = format!("{{{options},\"fitted\":{fitted}}}");
        assert_eq!(CAbi.restore(&model, &request.clone().options(&again), &mut |_, _| true), Ok(whole), "{again}");
        // For fewer channels, or none.
        for wrong in
            [r#"{"fitted":[]}"#, r#"{"fitted":[{"offset":"0","range":"x"}]}"#, r#"{"fitted":[{"offset":"1"}]}"#]
        {
            let failure =
                CAbi.restore(&model, &request.clone().options(wrong), &mut |_, _| true).expect_err("a refusal");
            assert_eq!(failure.status, "InvalidOption", "{}", failure.message);
        }
        exchange.stop_at[0] = exchange.read.len() + 1;
        assert_eq!(fit(&model, &mut exchange, None).expect_err("a refusal").status, "Cancelled");
    }
}

/// A plane by itself has other percentiles than its stack; with the stack's it is restored as part of the stack.
#[test]
fn a_part_is_restored_as_the_whole_would_be() {
    let model = CAbi.builtin("denoise").expect("a built-in model");
    let mut stack = Request { output: Type::F32, ..Request::noise(Type::U16, "ZYX", &[2, 40, 48]) };
    let Samples::U16(samples) = &mut stack.samples else { unreachable!("as asked for") };
    samples[40 * 48..].iter_mut().for_each(|sample| *sample /= 4);
    let second = samples[40 * 48..].to_vec();
    let whole = CAbi.restore(&model, &stack, &mut |_, _| true).expect("a restoration").to_f32();
    let mut go_on = |_, _| true;
    let fitted = fit(&model, &mut Exchange::new(&model, &stack, &mut go_on).expect("an output"), None).expect("fitted");
    let options = format!("{{\"fitted\":{fitted}}}");
    let plane = Request { samples: Samples::U16(second), axes: "YX", shape: vec![40, 48], ..stack.clone() };
    let alone = CAbi.restore(&model, &plane, &mut |_, _| true).expect("a restoration").to_f32();
    assert_ne!(alone, whole[40 * 48..]);
    let part = CAbi.restore(&model, &plane.options(&options), &mut |_, _| true).expect("a restoration").to_f32();
    assert_eq!(part, whole[40 * 48..]);
}

#[test]
fn a_callback_that_says_stop_is_not_called_again() {
    let model = identity();
    let request = Request::noise(Type::U8, "ZYX", &[4, 9, 8]);
    // Among the statistics, before the network, and when the last plane has come.
    for stop_at in [[1, usize::MAX], [5, usize::MAX], [usize::MAX, 1], [usize::MAX, 4]] {
        let mut go_on = |_, _| true;
        let mut exchange = Exchange::new(&model, &request, &mut go_on).expect("an output");
        exchange.stop_at = stop_at;
        let failure = exchange.run(&model, None).expect_err("a refusal");
        assert_eq!(failure.status, "Cancelled", "{}", failure.message);
        let calls = [exchange.read.len(), exchange.written.len()];
        assert!(calls.contains(stop_at.iter().min().expect("two")), "{calls:?} {stop_at:?}");
    }
}

#[test]
fn planes_without_a_function_are_refused() {
    let (model, axes, shape) = (identity(), c("YX"), [4_usize, 4]);
    let (read, write) = (Some(Exchange::read as _), Some(Exchange::write as _));
    let run = |handle, read, from, shape: &[usize], write, to| {
        // SAFETY: refused before a callback is called.
        unsafe {
            let (axes, shape) = (axes.as_ptr(), shape.as_ptr());
            (API.mdr_restore_planes)(handle, read, from, axes, shape, null(), None, null_mut(), write, to)
        }
    };
    refused(run(null_mut(), read, 1, &shape, write, 1), INVALID_ARGUMENT, "model is NULL");
    refused(run(model.0, None, 1, &shape, write, 1), INVALID_ARGUMENT, "read is NULL");
    refused(run(model.0, read, 1, &shape, None, 1), INVALID_ARGUMENT, "write is NULL");
    refused(run(model.0, read, 9, &shape, write, 1), INVALID_ARGUMENT, "input_type");
    refused(run(model.0, read, 1, &shape, write, 0), INVALID_ARGUMENT, "output_type");
    refused(run(model.0, read, 1, &[4, 0], write, 1), INVALID_ARGUMENT, "length of X is 0");
    refused(run(model.0, read, 1, &[1 << 28, 1 << 28], write, 1), INVALID_OPTION, "memory");
    // Small planes, but more of them than there is memory to list.
    let (stacks, axes) = (CAbi.load_bytes("stacks", &common::identity_3d()).expect("a model"), c("ZYX"));
    // SAFETY: as above.
    let deep = unsafe {
        let (axes, shape) = (axes.as_ptr(), [1 << 50, 1, 1].as_ptr());
        (API.mdr_restore_planes)(stacks.0, read, 1, axes, shape, null(), None, null_mut(), write, 1)
    };
    refused(deep, INVALID_OPTION, "memory");
}

fn identity() -> Model {
    CAbi.load_bytes("identity", &common::identity()).expect("a model")
}

#[track_caller]
fn refused(status: i32, expected: i32, words: &str) {
    let message = last_error();
    assert_eq!(NAMES[status as usize], NAMES[expected as usize], "{message}");
    assert!(message.contains(words), "{words:?} is not in {message:?}");
}

#[test]
fn library_has_every_function_of_the_header() {
    let header = std::fs::read_to_string(repository("include/mdr.h")).expect("mdr.h");
    let names: Vec<&str> = header
        .match_indices(" (\n")
        .chain(header.match_indices(" (void);"))
        .filter_map(|(end, _)| header[..end].split_whitespace().next_back())
        .collect();
    assert_eq!(names.len(), 16, "{names:?}");
    for name in names {
        assert!(name.starts_with("mdr_"), "{name}");
        // SAFETY: the symbol is looked up, not called.
        assert!(unsafe { API.library.get::<*const c_void>(name) }.is_ok(), "{name} is not in the library");
    }
    let version = format!("#define MDR_ABI_VERSION {}\n", unsafe { (API.mdr_abi_version)() });
    assert!(header.contains(&version), "{version}");
}

#[test]
fn version_is_the_package_version() {
    // SAFETY: static text.
    assert_eq!(unsafe { CStr::from_ptr((API.mdr_version)()) }.to_str(), Ok(env!("CARGO_PKG_VERSION")));
}

#[test]
fn builtin_models_are_listed() {
    // SAFETY: as for every text buffer.
    let list = json(|buffer, capacity, needed| unsafe { (API.mdr_builtin_models)(buffer, capacity, needed) });
    let list = list.expect("a list");
    let tasks: Vec<&Value> = list.as_array().expect("an array").iter().map(|facts| &facts["task"]).collect();
    assert!(tasks.contains(&&Value::from("denoise")), "{list}");
    for task in tasks {
        CAbi.builtin(task.as_str().expect("a task")).expect("what is listed can be loaded");
    }
}

#[test]
fn freeing_null_is_fine() {
    // SAFETY: the header allows it.
    unsafe { (API.mdr_model_free)(null_mut()) }
}

#[test]
fn freeing_keeps_the_last_error() {
    let model = identity();
    assert!(CAbi.builtin("deblur").is_err());
    drop(model);
    assert!(last_error().contains("deblur"));
}

#[test]
fn null_and_text_arguments_are_checked() {
    let model = identity();
    let (axes, shape, name) = (c("YX"), [4_usize, 4], c("name"));
    let latin1 = [b'm', 0xfc, 0];
    let latin1: *const c_char = latin1.as_ptr().cast();
    let misaligned_handle = model.0.wrapping_byte_add(1);
    let mut handle = null_mut();
    let mut lengths = [0_usize; 2];
    let mut needed = 0_usize;
    // SAFETY: each call has one wrong pointer, which the library refuses before it is used.
    unsafe {
        refused((API.mdr_model_load)(null(), &mut handle), INVALID_ARGUMENT, "path is NULL");
        refused((API.mdr_model_load)(name.as_ptr(), null_mut()), INVALID_ARGUMENT, "out is NULL");
        refused((API.mdr_model_load)(latin1, &mut handle), INVALID_ARGUMENT, "path is not UTF-8");
        refused((API.mdr_check_tiff)(null()), INVALID_ARGUMENT, "path is NULL");
        refused((API.mdr_check_tiff)(latin1), INVALID_ARGUMENT, "path is not UTF-8");
        refused((API.mdr_model_builtin)(null(), &mut handle), INVALID_ARGUMENT, "task is NULL");
        refused((API.mdr_model_builtin)(latin1, &mut handle), INVALID_ARGUMENT, "task is not UTF-8");
        let load = API.mdr_model_from_memory;
        refused(load(null(), [0].as_ptr(), 1, &mut handle), INVALID_ARGUMENT, "name is NULL");
        refused(load(name.as_ptr(), null(), 1, &mut handle), INVALID_ARGUMENT, "bytes is NULL");
        refused(load(name.as_ptr(), [0].as_ptr(), usize::MAX, &mut handle), INVALID_ARGUMENT, "bytes");
        refused(load(name.as_ptr(), [0].as_ptr(), 1, null_mut()), INVALID_ARGUMENT, "out is NULL");
        let odd = (&raw mut handle).wrapping_byte_add(1);
        refused(load(name.as_ptr(), [0].as_ptr(), 1, odd), INVALID_ARGUMENT, "out is misaligned");
        let facts = API.mdr_model_facts;
        refused(facts(null_mut(), null_mut(), 0, &mut needed), INVALID_ARGUMENT, "model is NULL");
        refused(facts(misaligned_handle, null_mut(), 0, &mut needed), INVALID_ARGUMENT, "model is misaligned");
        refused(facts(model.0, null_mut(), 100_000, &mut needed), INVALID_ARGUMENT, "buffer is NULL");
        let odd = (&raw mut needed).wrapping_byte_add(1);
        refused(facts(model.0, null_mut(), 0, odd), INVALID_ARGUMENT, "needed is misaligned");
        refused(facts(model.0, null_mut(), 0, null_mut()), BUFFER_TOO_SMALL, "needed");
        let (axes, shape, lengths) = (axes.as_ptr(), shape.as_ptr(), lengths.as_mut_ptr());
        let output = API.mdr_output_shape;
        refused(output(null_mut(), axes, shape, null(), lengths), INVALID_ARGUMENT, "model is NULL");
        refused(output(model.0, null(), shape, null(), lengths), INVALID_ARGUMENT, "axes is NULL");
        refused(output(model.0, axes, null(), null(), lengths), INVALID_ARGUMENT, "shape is NULL");
        refused(output(model.0, axes, shape, latin1, lengths), INVALID_ARGUMENT, "options is not UTF-8");
        refused(output(model.0, axes, shape, null(), null_mut()), INVALID_ARGUMENT, "out_shape is NULL");
        let odd = shape.wrapping_byte_add(1);
        refused(output(model.0, axes, odd, null(), lengths), INVALID_ARGUMENT, "shape is misaligned");
        for axes in ["", "Y", "XZ", "YYX", "SYX", "Y X"] {
            refused(output(model.0, c(axes).as_ptr(), shape, null(), lengths), INVALID_ARGUMENT, "axes");
        }
        for shape in [[0, 4], [4, 0], [usize::MAX, usize::MAX], [1 << 40, 1 << 40]] {
            refused(output(model.0, axes, shape.as_ptr(), null(), lengths), INVALID_ARGUMENT, "shape");
        }
    }
    assert!(handle.is_null() && lengths == [0; 2], "results are written on success only");
}

/// Arguments of `mdr_restore`; a test changes one.
struct Call {
    model: Handle,
    input: *const c_void,
    input_type: i32,
    axes: CString,
    shape: Vec<usize>,
    strides: *const i64,
    options: *const c_char,
    output: *mut c_void,
    output_type: i32,
    output_len: usize,
}

impl Call {
    fn run(self) -> i32 {
        // SAFETY: the tests below pass buffers of the right size, or such as the library refuses unread.
        unsafe {
            (API.mdr_restore)(
                self.model,
                self.input,
                self.input_type,
                self.axes.as_ptr(),
                self.shape.as_ptr(),
                self.strides,
                self.options,
                None,
                null_mut(),
                self.output,
                self.output_type,
                self.output_len,
            )
        }
    }
}

#[test]
fn restore_refuses_wrong_buffers() {
    let model = identity();
    let samples = [1.0_f32; 40];
    let mut output = [7.0_f32; 16];
    let (start, end) = (samples.as_ptr(), output.as_mut_ptr());
    let call = || Call {
        model: model.0,
        input: start.cast(),
        input_type: F32,
        axes: c("YX"),
        shape: vec![4, 4],
        strides: null(),
        options: null(),
        output: end.cast(),
        output_type: F32,
        output_len: 16,
    };
    let bad = |changed: Call, words| refused(changed.run(), INVALID_ARGUMENT, words);

    bad(Call { model: null_mut(), ..call() }, "model is NULL");
    bad(Call { input: null(), ..call() }, "input is NULL");
    bad(Call { output: null_mut(), ..call() }, "output is NULL");
    bad(Call { input: start.wrapping_byte_add(1).cast(), ..call() }, "input is misaligned");
    bad(Call { output: end.wrapping_byte_add(2).cast(), ..call() }, "output is misaligned");
    for number in [0, 4, -1, i32::MAX] {
        bad(Call { input_type: number, ..call() }, "input_type");
        bad(Call { output_type: number, ..call() }, "output_type");
    }
    bad(Call { shape: vec![4, 0], ..call() }, "length of X is 0");
    bad(Call { shape: vec![usize::MAX, 3], ..call() }, "shape");
    for strides in [[i64::MAX, 1], [i64::MIN, 1], [1 << 62, 1 << 62]] {
        bad(Call { strides: strides.as_ptr(), ..call() }, "strides");
    }
    let strides = [4_i64, 1, 0];
    bad(Call { strides: strides.as_ptr().wrapping_byte_add(1), ..call() }, "strides is misaligned");

    // Output inside the input, at its very end, and in the gap that strides leave.
    let mut shared = [1.0_f32; 64];
    let shared = shared.as_mut_ptr();
    for at in [0, 4, 15] {
        bad(Call { input: shared.cast(), output: shared.wrapping_add(at).cast(), ..call() }, "overlap");
        bad(Call { input: shared.wrapping_add(at).cast(), output: shared.cast(), ..call() }, "overlap");
    }
    let gap = [12_i64, 1];
    let output = shared.wrapping_add(4).cast();
    bad(Call { input: shared.cast(), strides: gap.as_ptr(), output, ..call() }, "overlap");
    let apart = Call { input: shared.cast(), output: shared.wrapping_add(16).cast(), ..call() };
    assert_eq!(apart.run(), OK, "{}", last_error());

    // One sample repeated over 2^20 by 2^20 pixels is a valid input, which the memory limit refuses unallocated.
    let repeated = [0_i64, 0];
    let output = shared.wrapping_add(16).cast();
    let vast = Call { input: shared.cast(), strides: repeated.as_ptr(), shape: vec![1 << 20; 2], output, ..call() };
    refused(Call { output_len: 1 << 40, ..vast }.run(), INVALID_OPTION, "memory limit");

    refused(Call { output_len: 15, ..call() }.run(), SHAPE_MISMATCH, "16");
    refused(Call { output_len: 17, ..call() }.run(), SHAPE_MISMATCH, "16");
    refused(Call { options: c"{".as_ptr(), ..call() }.run(), INVALID_OPTION, "options");
    refused(Call { options: c"[8]".as_ptr(), ..call() }.run(), INVALID_OPTION, "options");
    assert_eq!(call().run(), OK, "{}", last_error());
}

#[test]
fn samples_for_every_task() {
    for task in ["denoise", "axial", "super-resolve"] {
        let name = c(task);
        // SAFETY: as for every text buffer.
        let info = json(|buffer, capacity, needed| unsafe {
            (API.mdr_sample)(name.as_ptr(), null_mut(), 0, buffer, capacity, needed)
        });
        let info = info.expect("facts");
        let shape: Vec<usize> = serde_json::from_value(info["shape"].clone()).expect("lengths");
        assert_eq!(info["axes"].as_str().map(str::len), Some(shape.len()));
        let mut samples = vec![0_u16; shape.iter().product()];
        let (start, len) = (samples.as_mut_ptr(), samples.len());
        // SAFETY: the buffer has that many samples, or the call is refused.
        unsafe {
            let mut text = [0 as c_char; 4];
            let short = (API.mdr_sample)(name.as_ptr(), start, len, text.as_mut_ptr(), text.len(), null_mut());
            refused(short, BUFFER_TOO_SMALL, "buffer");
            assert!(text == [0; 4] && samples.iter().all(|&sample| sample == 0), "written on success only");
            let start = samples.as_mut_ptr();
            assert_eq!((API.mdr_sample)(name.as_ptr(), start, len, null_mut(), 0, null_mut()), OK, "{}", last_error());
            let short = (API.mdr_sample)(name.as_ptr(), start, len - 1, null_mut(), 0, null_mut());
            refused(short, SHAPE_MISMATCH, "samples");
            let nowhere = (API.mdr_sample)(name.as_ptr(), null_mut(), len, null_mut(), 0, null_mut());
            refused(nowhere, INVALID_ARGUMENT, "output is NULL");
        }
        assert!(samples.iter().max() > Some(&120) && samples.iter().all(|&sample| sample > 0), "{task}");
    }
}

#[test]
fn each_thread_has_its_own_last_error() {
    assert!(CAbi.builtin("first").is_err());
    std::thread::spawn(|| {
        assert_eq!(last_error(), "");
        assert!(CAbi.builtin("second").is_err());
        assert!(last_error().contains("second"));
    })
    .join()
    .expect("no panic");
    assert!(last_error().contains("first"), "{}", last_error());
}
