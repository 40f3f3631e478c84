//! The shim between `org.mdr.fiji.MdrNative` and libmdr: Java arguments → C call → Java results, nothing else.
//!
//! libmdr is opened by path at run time, so that the Java side can unpack both libraries from its jar to wherever it
//! likes. A status that is not OK becomes an `MdrException` with the text of `mdr_last_error`. Pixels are copied
//! (`Get/Set…ArrayRegion`): critical access would be some milliseconds quicker, but no Java code may run while it
//! lasts, and the callbacks are Java code. Callbacks come in the thread that called, with its `Env`; a Java exception
//! in one cancels the run and is then what the caller sees.

#![allow(unsafe_code)]

use jni::errors::{Error as JniError, ErrorPolicy};
use jni::objects::{JByteArray, JClass, JFloatArray, JLongArray, JObject, JShortArray, JString, JThrowable};
use jni::sys::{jint, jlong, jsize};
use jni::{Env, EnvUnowned, JValue, jni_sig, jni_str};
use libloading::Library;
use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{null, null_mut};
use std::slice::{from_raw_parts, from_raw_parts_mut};
use std::sync::OnceLock;

/// `MDR_ABI_VERSION` of the `mdr.h` from which the types below were written.
const ABI_VERSION: u32 = 1;

const OK: i32 = 0;
const INVALID_ARGUMENT: i32 = 1;
const BUFFER_TOO_SMALL: i32 = 2;
const INTERNAL: i32 = 9;

const U8: i32 = 1;
const U16: i32 = 2;
const F32: i32 = 3;

/// A model; opaque.
type Model = c_void;
type Text = *const c_char;
type Progress = Option<unsafe extern "C" fn(u64, u64, *mut c_void) -> i32>;
type Read = unsafe extern "C" fn(u64, u64, u64, *mut c_void, *mut c_void) -> i32;
type Write = unsafe extern "C" fn(u64, u64, u64, *const c_void, *mut c_void) -> i32;

macro_rules! api {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of libmdr, under their names without `mdr_`.
        struct Api {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            /// Keeps the functions where they are.
            _library: Library,
        }

        impl Api {
            /// # Safety
            /// The library is a libmdr of this ABI version.
            unsafe fn new(library: Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: types as in `mdr.h`, whose version the caller has compared.
                    $($name: *unsafe { library.get(concat!("mdr_", stringify!($name), "\0")) }?,)*
                    _library: library,
                })
            }
        }

        #[cfg(test)]
        const NAMES: &[&str] = &[$(concat!("mdr_", stringify!($name))),*];
    };
}

api! {
    abi_version: fn() -> u32;
    version: fn() -> Text;
    last_error: fn() -> Text;
    builtin_models: fn(*mut c_char, usize, *mut usize) -> i32;
    model_builtin: fn(Text, *mut *mut Model) -> i32;
    model_load: fn(Text, *mut *mut Model) -> i32;
    model_from_memory: fn(Text, *const u8, usize, *mut *mut Model) -> i32;
    model_free: fn(*mut Model);
    model_facts: fn(*const Model, *mut c_char, usize, *mut usize) -> i32;
    output_shape: fn(*const Model, Text, *const usize, Text, *mut usize) -> i32;
    output_info: fn(*const Model, Text, *const usize, Text, *mut c_char, usize, *mut usize) -> i32;
    restore: fn(
        *const Model, *const c_void, i32, Text, *const usize, *const i64, Text, Progress, *mut c_void,
        *mut c_void, i32, usize
    ) -> i32;
    restore_planes: fn(
        *const Model, Read, i32, Text, *const usize, Text, Progress, *mut c_void, Write, i32
    ) -> i32;
    check_tiff: fn(Text) -> i32;
    sample: fn(Text, *mut u16, usize, *mut c_char, usize, *mut usize) -> i32;
    fit_planes: fn(
        *const Model, Read, i32, Text, *const usize, Text, *mut c_void, *mut c_char, usize, *mut usize
    ) -> i32;
}

/// One libmdr per copy of this shim. Every class loader has a copy of its own, since a JVM refuses to load one library
/// for two of them.
static API: OnceLock<Api> = OnceLock::new();

/// Why a native method ends without a result.
enum Fault {
    /// What libmdr said, or what is said in its place.
    Status(i32, String),
    /// A failed JNI call; often a Java exception, which is then pending already.
    Jni(JniError),
}

impl From<JniError> for Fault {
    fn from(error: JniError) -> Self {
        Self::Jni(error)
    }
}

fn argument(message: impl Into<String>) -> Fault {
    Fault::Status(INVALID_ARGUMENT, message.into())
}

/// Throws what went wrong: the pending Java exception, or else an `MdrException`.
struct Throw;

impl Throw {
    fn throw<T: Default>(env: &mut Env, status: i32, message: &str) -> jni::errors::Result<T> {
        if !env.exception_check() {
            let class = env.find_class(jni_str!("org/mdr/fiji/MdrException"))?;
            let message = JString::from_str(env, message)?;
            let arguments = [JValue::Int(status), JValue::Object(&message)];
            let exception = env.new_object(class, jni_sig!("(ILjava/lang/String;)V"), &arguments)?;
            let exception = env.cast_local::<JThrowable>(exception)?;
            // Always an error: a Java exception is pending from here on.
            let _ = env.throw(exception);
        }
        Ok(T::default())
    }
}

impl<T: Default> ErrorPolicy<T, Fault> for Throw {
    type Captures<'local: 'method, 'method> = ();

    fn on_error<'local: 'method, 'method>(env: &mut Env<'local>, (): &mut (), fault: Fault) -> jni::errors::Result<T> {
        match fault {
            Fault::Status(status, message) => Self::throw(env, status, &message),
            Fault::Jni(error) => Self::throw(env, INTERNAL, &format!("JNI: {error}")),
        }
    }

    fn on_panic<'local: 'method, 'method>(
        env: &mut Env<'local>,
        (): &mut (),
        panic: Box<dyn Any + Send>,
    ) -> jni::errors::Result<T> {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        Self::throw(env, INTERNAL, &format!("defect in the JNI shim of mdr, please report it: {text}"))
    }
}

fn api() -> Result<&'static Api, Fault> {
    API.get().ok_or_else(|| argument("libmdr has not been opened"))
}

impl Api {
    fn check(&self, status: i32) -> Result<(), Fault> {
        if status == OK {
            return Ok(());
        }
        // SAFETY: valid until this thread's next call.
        let message = unsafe { CStr::from_ptr((self.last_error)()) };
        Err(Fault::Status(status, message.to_string_lossy().into_owned()))
    }

    /// Text by the rule for text buffers: ask for the size, allocate, ask again.
    fn text(&self, call: impl Fn(*mut c_char, usize, *mut usize) -> i32) -> Result<String, Fault> {
        let mut needed = 0;
        match call(null_mut(), 0, &mut needed) {
            BUFFER_TOO_SMALL => {}
            status => self.check(status)?,
        }
        let mut bytes = vec![0u8; needed];
        self.check(call(bytes.as_mut_ptr().cast(), needed, &mut needed))?;
        bytes.pop();
        String::from_utf8(bytes).map_err(|error| Fault::Status(INTERNAL, error.to_string()))
    }

    fn model(&self, load: impl FnOnce(*mut *mut Model) -> i32) -> Result<jlong, Fault> {
        let mut model = null_mut();
        self.check(load(&mut model))?;
        Ok(model as jlong)
    }
}

fn c_string(env: &Env, text: &JString) -> Result<CString, Fault> {
    CString::new(text.try_to_string(env)?).map_err(|_| argument("a text holds a NUL character"))
}

/// Lengths of the axes, one for each letter of `axes`: libmdr reads that many.
fn lengths(env: &Env, axes: &CStr, shape: &JLongArray) -> Result<Vec<usize>, Fault> {
    let mut lengths = vec![0; shape.len(env)?];
    shape.get_region(env, 0, &mut lengths)?;
    if lengths.len() != axes.to_string_lossy().chars().count() {
        return Err(argument(format!("axes {axes:?}: expected one length each, found {}", lengths.len())));
    }
    let length = |&length| usize::try_from(length).map_err(|_| argument(format!("shape: {length} is below 0")));
    lengths.iter().map(length).collect()
}

/// Pixels outside of Java, as Java's types have them; unsigned integers for libmdr.
enum Samples {
    U8(Vec<i8>),
    U16(Vec<i16>),
    F32(Vec<f32>),
}

impl Samples {
    /// A copy of a `byte[]`, `short[]` or `float[]`, or zeros of its type and length.
    fn of(env: &mut Env, array: &JObject, copy: bool) -> Result<Self, Fault> {
        let plane = Plane::of(env, array)?;
        let mut samples = match plane.kind {
            U8 => Self::U8(vec![0; plane.len]),
            U16 => Self::U16(vec![0; plane.len]),
            _ => Self::F32(vec![0.0; plane.len]),
        };
        if copy {
            // SAFETY: as many samples of the same kind.
            unsafe { plane.fetch(env, array, samples.start())? };
        }
        Ok(samples)
    }

    fn kind(&self) -> i32 {
        match self {
            Self::U8(_) => U8,
            Self::U16(_) => U16,
            Self::F32(_) => F32,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::U8(samples) => samples.len(),
            Self::U16(samples) => samples.len(),
            Self::F32(samples) => samples.len(),
        }
    }

    fn start(&mut self) -> *mut c_void {
        match self {
            Self::U8(samples) => samples.as_mut_ptr().cast(),
            Self::U16(samples) => samples.as_mut_ptr().cast(),
            Self::F32(samples) => samples.as_mut_ptr().cast(),
        }
    }

    fn give(&self, env: &mut Env, array: &JObject) -> Result<(), Fault> {
        match self {
            Self::U8(samples) => env.as_cast::<JByteArray>(array)?.set_region(env, 0, samples)?,
            Self::U16(samples) => env.as_cast::<JShortArray>(array)?.set_region(env, 0, samples)?,
            Self::F32(samples) => env.as_cast::<JFloatArray>(array)?.set_region(env, 0, samples)?,
        }
        Ok(())
    }
}

/// Kind and number of the samples of a plane, which are copied between Java and libmdr's memory without a detour.
#[derive(Clone, Copy, Default, PartialEq)]
struct Plane {
    kind: i32,
    len: usize,
}

impl Plane {
    fn new(kind: jint, axes: &CStr, shape: &[usize]) -> Result<Self, Fault> {
        if ![U8, U16, F32].contains(&kind) {
            return Err(argument(format!("pixel type {kind}: expected 1, 2 or 3")));
        }
        let side = |letter| axes.to_bytes().iter().position(|&l| l.eq_ignore_ascii_case(&letter)).map(|i| shape[i]);
        let len = side(b'Y').zip(side(b'X')).and_then(|(y, x)| y.checked_mul(x));
        Ok(Self { kind, len: len.ok_or_else(|| argument(format!("axes {axes:?} and shape {shape:?}")))? })
    }

    /// What a `byte[]`, `short[]` or `float[]` holds.
    fn of(env: &mut Env, array: &JObject) -> Result<Self, Fault> {
        if array.is_null() {
            return Err(argument("pixels are null"));
        }
        if let Ok(array) = env.as_cast::<JByteArray>(array) {
            return Ok(Self { kind: U8, len: array.len(env)? });
        }
        if let Ok(array) = env.as_cast::<JShortArray>(array) {
            return Ok(Self { kind: U16, len: array.len(env)? });
        }
        if let Ok(array) = env.as_cast::<JFloatArray>(array) {
            return Ok(Self { kind: F32, len: array.len(env)? });
        }
        Err(argument("pixels: expected byte[], short[] or float[]"))
    }

    /// Copies an array that holds such a plane.
    ///
    /// # Safety
    /// `memory` is that of such a plane.
    unsafe fn fetch(self, env: &mut Env, array: &JObject, memory: *mut c_void) -> Result<(), Fault> {
        // SAFETY: the caller's promise.
        unsafe {
            match self.kind {
                U8 => {
                    env.as_cast::<JByteArray>(array)?.get_region(env, 0, from_raw_parts_mut(memory.cast(), self.len))?
                }
                U16 => env.as_cast::<JShortArray>(array)?.get_region(
                    env,
                    0,
                    from_raw_parts_mut(memory.cast(), self.len),
                )?,
                _ => env.as_cast::<JFloatArray>(array)?.get_region(
                    env,
                    0,
                    from_raw_parts_mut(memory.cast(), self.len),
                )?,
            }
        }
        Ok(())
    }

    /// A new array in Java.
    ///
    /// It is not made by `Env::new_float_array` and its like: where Java's memory is used up, these look for the class
    /// of the exception, for which there is no memory either, until the stack overflows and takes the host along. Here
    /// the `OutOfMemoryError` just stays pending.
    ///
    /// # Safety
    /// `memory` is that of such a plane.
    unsafe fn array<'l>(self, env: &mut Env<'l>, memory: *const c_void) -> Result<JObject<'l>, Fault> {
        let len = jsize::try_from(self.len)
            .map_err(|_| argument(format!("a plane of {} pixels is too large for Java", self.len)))?;
        let raw = env.get_raw();
        // SAFETY: the environment of this thread, in which no exception is pending; a new local reference of its own;
        // the caller's promise.
        unsafe {
            let java = &(**raw).v1_1;
            let array = match self.kind {
                U8 => (java.NewByteArray)(raw, len),
                U16 => (java.NewShortArray)(raw, len),
                _ => (java.NewFloatArray)(raw, len),
            };
            if array.is_null() {
                return Err(Fault::Jni(JniError::JavaException));
            }
            let array = JObject::from_raw(env, array);
            match self.kind {
                U8 => env.as_cast::<JByteArray>(&array)?.set_region(env, 0, from_raw_parts(memory.cast(), self.len))?,
                U16 => {
                    env.as_cast::<JShortArray>(&array)?.set_region(env, 0, from_raw_parts(memory.cast(), self.len))?
                }
                _ => env.as_cast::<JFloatArray>(&array)?.set_region(env, 0, from_raw_parts(memory.cast(), self.len))?,
            }
            Ok(array)
        }
    }
}

/// What the callbacks find behind `user`: the Java objects that they call, null where there are none.
struct Caller<'call, 'local> {
    env: &'call mut Env<'local>,
    progress: &'call JObject<'local>,
    source: &'call JObject<'local>,
    input: Plane,
    sink: &'call JObject<'local>,
    output: Plane,
    /// Why a callback stopped the run.
    fault: Option<Fault>,
}

impl Caller<'_, '_> {
    fn user(&mut self) -> *mut c_void {
        (&raw mut *self).cast()
    }

    /// What became of the run: the callbacks' fault comes before libmdr's status.
    fn outcome(&mut self, api: &Api, status: i32) -> Result<(), Fault> {
        match self.fault.take() {
            Some(fault) => Err(fault),
            None => api.check(status),
        }
    }

    /// `progress.update(done, total)`; whether to go on.
    fn report(&mut self, done: u64, total: u64) -> Result<bool, Fault> {
        if self.progress.is_null() {
            return Ok(true);
        }
        let arguments = [JValue::Long(done as jlong), JValue::Long(total as jlong)];
        Ok(self.env.call_method(self.progress, jni_str!("update"), jni_sig!("(JJ)Z"), &arguments)?.z()?)
    }

    /// `source.read(t, c, z)` into the memory of a plane.
    fn read(&mut self, index: [u64; 3], memory: *mut c_void) -> Result<bool, Fault> {
        let Self { source, input, .. } = *self;
        // A frame, since references to the arrays of a stack would pile up until the native method returns.
        self.env.with_local_frame(8, |env| {
            let arguments = index.map(|i| JValue::Int(i as jint));
            let array = env.call_method(source, jni_str!("read"), jni_sig!("(III)Ljava/lang/Object;"), &arguments)?;
            let array = array.l()?;
            let found = Plane::of(env, &array)?;
            if found != input {
                return Err(argument(format!(
                    "plane {index:?} has {} pixels of type {}; expected {} of type {}",
                    found.len, found.kind, input.len, input.kind
                )));
            }
            // SAFETY: libmdr's memory for a plane; the array has just been looked at.
            unsafe { input.fetch(env, &array, memory)? };
            Ok(true)
        })
    }

    /// `sink.write(t, c, z, pixels)`
    fn write(&mut self, index: [u64; 3], memory: *const c_void) -> Result<bool, Fault> {
        let Self { sink, output, .. } = *self;
        self.env.with_local_frame(8, |env| {
            // SAFETY: a plane of the result, of the kind that was asked for.
            let array = unsafe { output.array(env, memory)? };
            let [t, c, z] = index.map(|i| JValue::Int(i as jint));
            let arguments = [t, c, z, JValue::Object(&array)];
            env.call_method(sink, jni_str!("write"), jni_sig!("(IIILjava/lang/Object;)V"), &arguments)?;
            Ok(true)
        })
    }
}

/// Runs the body of a callback; whatever goes wrong in it stops the run and is kept.
///
/// # Safety
/// `user` is the [`Caller`] of the native method that is waiting for this run, in the same thread.
unsafe fn callback(user: *mut c_void, body: impl FnOnce(&mut Caller) -> Result<bool, Fault>) -> i32 {
    // SAFETY: the caller's promise.
    let caller = unsafe { &mut *user.cast::<Caller>() };
    let outcome = catch_unwind(AssertUnwindSafe(|| body(caller)))
        .unwrap_or_else(|_| Err(Fault::Status(INTERNAL, "defect in the JNI shim of mdr, please report it".into())));
    outcome.map_or_else(
        |fault| {
            caller.fault = Some(fault);
            0
        },
        i32::from,
    )
}

unsafe extern "C" fn on_progress(done: u64, total: u64, user: *mut c_void) -> i32 {
    // SAFETY: libmdr hands back what it was given.
    unsafe { callback(user, |caller| caller.report(done, total)) }
}

unsafe extern "C" fn on_read(t: u64, c: u64, z: u64, memory: *mut c_void, user: *mut c_void) -> i32 {
    // SAFETY: as above.
    unsafe { callback(user, |caller| caller.read([t, c, z], memory)) }
}

unsafe extern "C" fn on_write(t: u64, c: u64, z: u64, memory: *const c_void, user: *mut c_void) -> i32 {
    // SAFETY: as above.
    unsafe { callback(user, |caller| caller.write([t, c, z], memory)) }
}

/// `static native void open(String library)`
#[unsafe(no_mangle)]
extern "system" fn Java_org_mdr_fiji_MdrNative_open<'l>(mut env: EnvUnowned<'l>, _: JClass<'l>, path: JString<'l>) {
    env.with_env(|env| {
        if API.get().is_some() {
            return Ok(());
        }
        let path = path.try_to_string(env)?;
        let failed = |error: libloading::Error| Fault::Status(INTERNAL, format!("{path}: {error}"));
        // SAFETY: libmdr runs no code when it is loaded. The type of `mdr_abi_version` never changes.
        let (library, version) = unsafe {
            let library = Library::new(&path).map_err(failed)?;
            let version = library.get::<unsafe extern "C" fn() -> u32>("mdr_abi_version\0").map_err(failed)?();
            (library, version)
        };
        if version != ABI_VERSION {
            return Err(argument(format!("{path}: has ABI version {version}, this plug-in needs {ABI_VERSION}")));
        }
        // SAFETY: of this ABI version, as just compared.
        let api = unsafe { Api::new(library) }.map_err(failed)?;
        // Of two threads that are first, one is enough.
        let _ = API.set(api);
        Ok(())
    })
    .resolve::<Throw>();
}

/// `static native int abiVersion()`
#[unsafe(no_mangle)]
extern "system" fn Java_org_mdr_fiji_MdrNative_abiVersion<'l>(mut env: EnvUnowned<'l>, _: JClass<'l>) -> jint {
    // SAFETY: takes nothing.
    env.with_env(|_| Ok(unsafe { (api()?.abi_version)() } as jint)).resolve::<Throw>()
}

/// `static native String version()`
#[unsafe(no_mangle)]
extern "system" fn Java_org_mdr_fiji_MdrNative_version<'l>(mut env: EnvUnowned<'l>, _: JClass<'l>) -> JString<'l> {
    env.with_env(|env| {
        // SAFETY: static text.
        let version = unsafe { CStr::from_ptr((api()?.version)()) };
        Ok::<_, Fault>(JString::from_str(env, version.to_string_lossy())?)
    })
    .resolve::<Throw>()
}

/// `static native String builtinModels()`
#[unsafe(no_mangle)]
extern "system" fn Java_org_mdr_fiji_MdrNative_builtinModels<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
) -> JString<'l> {
    env.with_env(|env| {
        let api = api()?;
        // SAFETY: a text buffer.
        let json = api.text(|buffer, capacity, needed| unsafe { (api.builtin_models)(buffer, capacity, needed) })?;
        Ok::<_, Fault>(JString::from_str(env, json)?)
    })
    .resolve::<Throw>()
}

/// `static native long modelBuiltin(String task)`
#[unsafe(no_mangle)]
extern "system" fn Java_org_mdr_fiji_MdrNative_modelBuiltin<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    task: JString<'l>,
) -> jlong {
    env.with_env(|env| {
        let (api, task) = (api()?, c_string(env, &task)?);
        // SAFETY: text and an out-parameter.
        api.model(|out| unsafe { (api.model_builtin)(task.as_ptr(), out) })
    })
    .resolve::<Throw>()
}

/// `static native long modelLoad(String path)`
#[unsafe(no_mangle)]
extern "system" fn Java_org_mdr_fiji_MdrNative_modelLoad<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    path: JString<'l>,
) -> jlong {
    env.with_env(|env| {
        let (api, path) = (api()?, c_string(env, &path)?);
        // SAFETY: text and an out-parameter.
        api.model(|out| unsafe { (api.model_load)(path.as_ptr(), out) })
    })
    .resolve::<Throw>()
}

/// `static native long modelFromMemory(String name, byte[] onnx)`
#[unsafe(no_mangle)]
extern "system" fn Java_org_mdr_fiji_MdrNative_modelFromMemory<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    name: JString<'l>,
    onnx: JByteArray<'l>,
) -> jlong {
    env.with_env(|env| {
        let (api, name) = (api()?, c_string(env, &name)?);
        let bytes = env.convert_byte_array(&onnx)?;
        // SAFETY: text, that many bytes, and an out-parameter.
        api.model(|out| unsafe { (api.model_from_memory)(name.as_ptr(), bytes.as_ptr(), bytes.len(), out) })
    })
    .resolve::<Throw>()
}

/// `static native void modelFree(long model)`
#[unsafe(no_mangle)]
extern "system" fn Java_org_mdr_fiji_MdrNative_modelFree<'l>(mut env: EnvUnowned<'l>, _: JClass<'l>, model: jlong) {
    // SAFETY: `MdrModel` frees a model once, when no other thread is using it.
    env.with_env(|_| {
        unsafe { (api()?.model_free)(model as *mut Model) };
        Ok::<_, Fault>(())
    })
    .resolve::<Throw>();
}

/// `static native String modelFacts(long model)`
#[unsafe(no_mangle)]
extern "system" fn Java_org_mdr_fiji_MdrNative_modelFacts<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    model: jlong,
) -> JString<'l> {
    env.with_env(|env| {
        let api = api()?;
        let model = model as *const Model;
        // SAFETY: a model that `MdrModel` holds, and a text buffer.
        let json =
            api.text(|buffer, capacity, needed| unsafe { (api.model_facts)(model, buffer, capacity, needed) })?;
        Ok::<_, Fault>(JString::from_str(env, json)?)
    })
    .resolve::<Throw>()
}

/// `static native long[] outputShape(long model, String axes, long[] shape, String options)`
#[unsafe(no_mangle)]
extern "system" fn Java_org_mdr_fiji_MdrNative_outputShape<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    model: jlong,
    axes: JString<'l>,
    shape: JLongArray<'l>,
    options: JString<'l>,
) -> JLongArray<'l> {
    env.with_env(|env| {
        let (api, axes, options) = (api()?, c_string(env, &axes)?, c_string(env, &options)?);
        let mut shape = lengths(env, &axes, &shape)?;
        let lengths = shape.as_mut_ptr();
        // SAFETY: a model that `MdrModel` holds, and one length for each axis; the result may take their place.
        api.check(unsafe { (api.output_shape)(model as _, axes.as_ptr(), lengths, options.as_ptr(), lengths) })?;
        let shape: Vec<jlong> = shape.into_iter().map(|length| length as jlong).collect();
        let result = env.new_long_array(shape.len())?;
        result.set_region(env, 0, &shape)?;
        Ok::<_, Fault>(result)
    })
    .resolve::<Throw>()
}

/// `static native String outputInfo(long model, String axes, long[] shape, String options)`
#[unsafe(no_mangle)]
extern "system" fn Java_org_mdr_fiji_MdrNative_outputInfo<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    model: jlong,
    axes: JString<'l>,
    shape: JLongArray<'l>,
    options: JString<'l>,
) -> JString<'l> {
    env.with_env(|env| {
        let (api, axes, options) = (api()?, c_string(env, &axes)?, c_string(env, &options)?);
        let shape = lengths(env, &axes, &shape)?;
        // SAFETY: a model that `MdrModel` holds, one length for each axis, and a text buffer.
        let json = api.text(|buffer, capacity, needed| unsafe {
            let (axes, shape, options) = (axes.as_ptr(), shape.as_ptr(), options.as_ptr());
            (api.output_info)(model as _, axes, shape, options, buffer, capacity, needed)
        })?;
        Ok::<_, Fault>(JString::from_str(env, json)?)
    })
    .resolve::<Throw>()
}

/// `static native void restore(long model, Object input, String axes, long[] shape, String options,
/// Progress progress, Object output)`; pixels are `byte[]`, `short[]` or `float[]`, without gaps.
#[unsafe(no_mangle)]
extern "system" fn Java_org_mdr_fiji_MdrNative_restore<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    model: jlong,
    input: JObject<'l>,
    axes: JString<'l>,
    shape: JLongArray<'l>,
    options: JString<'l>,
    progress: JObject<'l>,
    output: JObject<'l>,
) {
    env.with_env(|env| {
        let (api, axes, options) = (api()?, c_string(env, &axes)?, c_string(env, &options)?);
        let shape = lengths(env, &axes, &shape)?;
        let mut samples = Samples::of(env, &input, true)?;
        // libmdr trusts the lengths.
        if shape.iter().try_fold(1, |all: usize, &n| all.checked_mul(n)) != Some(samples.len()) {
            return Err(argument(format!("{} pixels do not fill the shape {shape:?}", samples.len())));
        }
        let mut restored = Samples::of(env, &output, false)?;
        let none = JObject::null();
        let mut caller = Caller {
            env: &mut *env,
            progress: &progress,
            source: &none,
            input: Plane::default(),
            sink: &none,
            output: Plane::default(),
            fault: None,
        };
        // SAFETY: a model that `MdrModel` holds, text, buffers of the stated types and lengths that nobody else knows,
        // and a callback with what it expects.
        let status = unsafe {
            (api.restore)(
                model as _,
                samples.start(),
                samples.kind(),
                axes.as_ptr(),
                shape.as_ptr(),
                null(),
                options.as_ptr(),
                Some(on_progress),
                caller.user(),
                restored.start(),
                restored.kind(),
                restored.len(),
            )
        };
        caller.outcome(api, status)?;
        restored.give(env, &output)
    })
    .resolve::<Throw>();
}

/// `static native void restorePlanes(long model, PlaneSource source, int inputType, String axes, long[] shape,
/// String options, Progress progress, PlaneSink sink, int outputType)`
#[unsafe(no_mangle)]
extern "system" fn Java_org_mdr_fiji_MdrNative_restorePlanes<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    model: jlong,
    source: JObject<'l>,
    input_type: jint,
    axes: JString<'l>,
    shape: JLongArray<'l>,
    options: JString<'l>,
    progress: JObject<'l>,
    sink: JObject<'l>,
    output_type: jint,
) {
    env.with_env(|env| {
        let (api, axes, options) = (api()?, c_string(env, &axes)?, c_string(env, &options)?);
        let shape = lengths(env, &axes, &shape)?;
        let mut result = vec![0; shape.len()];
        // SAFETY: a model that `MdrModel` holds, and one length for each axis.
        api.check(unsafe {
            (api.output_shape)(model as _, axes.as_ptr(), shape.as_ptr(), options.as_ptr(), result.as_mut_ptr())
        })?;
        let (input, output) = (Plane::new(input_type, &axes, &shape)?, Plane::new(output_type, &axes, &result)?);
        let mut caller = Caller { env, progress: &progress, source: &source, input, sink: &sink, output, fault: None };
        // SAFETY: a model that `MdrModel` holds, text, lengths, and callbacks with what they expect.
        let status = unsafe {
            (api.restore_planes)(
                model as _,
                on_read,
                input_type,
                axes.as_ptr(),
                shape.as_ptr(),
                options.as_ptr(),
                Some(on_progress),
                caller.user(),
                on_write,
                output_type,
            )
        };
        caller.outcome(api, status)
    })
    .resolve::<Throw>();
}

/// `static native String fitPlanes(long model, PlaneSource source, int inputType, String axes, long[] shape,
/// String options)`
#[unsafe(no_mangle)]
extern "system" fn Java_org_mdr_fiji_MdrNative_fitPlanes<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    model: jlong,
    source: JObject<'l>,
    input_type: jint,
    axes: JString<'l>,
    shape: JLongArray<'l>,
    options: JString<'l>,
) -> JString<'l> {
    env.with_env(|env| {
        let (api, axes, options) = (api()?, c_string(env, &axes)?, c_string(env, &options)?);
        let shape = lengths(env, &axes, &shape)?;
        let input = Plane::new(input_type, &axes, &shape)?;
        let none = JObject::null();
        let mut caller = Caller {
            env: &mut *env,
            progress: &none,
            source: &source,
            input,
            sink: &none,
            output: Plane::default(),
            fault: None,
        };
        // Every call reads the whole image: room for any number of channels that an image may have saves the second.
        let channels = axes.to_bytes().iter().position(|&l| l.eq_ignore_ascii_case(&b'C')).map_or(1, |i| shape[i]);
        let room = channels.checked_add(1).and_then(|n| n.checked_mul(256));
        let mut bytes = Vec::<u8>::new();
        if room.is_none_or(|room| bytes.try_reserve_exact(room).is_err()) {
            return Err(argument(format!("shape: no memory for the statistics of {channels} channels")));
        }
        let mut needed = 0;
        // SAFETY: a model that `MdrModel` holds, text, lengths, a callback with what it expects, and a text buffer.
        let status = unsafe {
            (api.fit_planes)(
                model as _,
                on_read,
                input_type,
                axes.as_ptr(),
                shape.as_ptr(),
                options.as_ptr(),
                caller.user(),
                bytes.as_mut_ptr().cast(),
                bytes.capacity(),
                &mut needed,
            )
        };
        caller.outcome(api, status)?;
        // SAFETY: libmdr has written that many, but for the final NUL.
        unsafe { bytes.set_len(needed.saturating_sub(1)) };
        let json = String::from_utf8(bytes).map_err(|error| Fault::Status(INTERNAL, error.to_string()))?;
        Ok::<_, Fault>(JString::from_str(env, json)?)
    })
    .resolve::<Throw>()
}

/// `static native void checkTiff(String path)`
#[unsafe(no_mangle)]
extern "system" fn Java_org_mdr_fiji_MdrNative_checkTiff<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    path: JString<'l>,
) {
    env.with_env(|env| {
        let (api, path) = (api()?, c_string(env, &path)?);
        // SAFETY: text.
        api.check(unsafe { (api.check_tiff)(path.as_ptr()) })
    })
    .resolve::<Throw>()
}

/// `static native String sample(String task, short[] output)`; with `output` null nothing but the text, which it is
/// otherwise without.
#[unsafe(no_mangle)]
extern "system" fn Java_org_mdr_fiji_MdrNative_sample<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    task: JString<'l>,
    output: JShortArray<'l>,
) -> JString<'l> {
    env.with_env(|env| {
        let (api, task) = (api()?, c_string(env, &task)?);
        let mut samples = vec![0i16; if output.is_null() { 0 } else { output.len(env)? }];
        let json = if samples.is_empty() {
            // SAFETY: text, no samples, and a text buffer.
            api.text(|buffer, capacity, needed| unsafe {
                (api.sample)(task.as_ptr(), null_mut(), 0, buffer, capacity, needed)
            })?
        } else {
            // SAFETY: text, and room for that many samples, which libmdr compares with what it has.
            api.check(unsafe {
                let start = samples.as_mut_ptr().cast();
                (api.sample)(task.as_ptr(), start, samples.len(), null_mut(), 0, null_mut())
            })?;
            output.set_region(env, 0, &samples)?;
            String::new()
        };
        Ok::<_, Fault>(JString::from_str(env, json)?)
    })
    .resolve::<Throw>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = include_str!("../../../../include/mdr.h");

    #[test]
    fn the_abi_version_is_that_of_the_header() {
        assert!(HEADER.contains(&format!("#define MDR_ABI_VERSION {ABI_VERSION}\n")));
    }

    #[test]
    fn every_function_of_the_header_is_opened() {
        let mut declared: Vec<_> =
            HEADER.lines().filter(|l| l.starts_with("mdr_")).filter_map(|l| l.split(" (").next()).collect();
        let mut opened = NAMES.to_vec();
        declared.sort_unstable();
        opened.sort_unstable();
        assert_eq!(opened, declared);
    }
}
