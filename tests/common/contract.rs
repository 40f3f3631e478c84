//! Cases that every binding must pass: the Rust API (`rust_api.rs`) and the C interface of the built library
//! (`c_abi.rs`). A binding implements [`Binding`]; [`contract!`] makes one test of each case.
//!
//! Expectations come from loops over single samples in this file, not from the engine.

use super::{identity, mean3, two_channels, upsample2};
use serde_json::{Value, json};
use std::path::Path;

/// Sample type of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    U8,
    U16,
    F32,
}

/// Samples as a caller holds them.
#[derive(Clone, Debug, PartialEq)]
pub enum Samples {
    U8(Vec<u8>),
    U16(Vec<u16>),
    F32(Vec<f32>),
}

impl Samples {
    /// `len` different-looking values, the same on every run, in the range of the type.
    pub fn noise(kind: Type, len: usize) -> Self {
        let mut state = 12345_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        match kind {
            Type::U8 => Self::U8((0..len).map(|_| next() as u8).collect()),
            Type::U16 => Self::U16((0..len).map(|_| next() as u16).collect()),
            Type::F32 => Self::F32((0..len).map(|_| next() as f32 / 65536.0 * 20.0 - 5.0).collect()),
        }
    }

    pub fn kind(&self) -> Type {
        match self {
            Self::U8(_) => Type::U8,
            Self::U16(_) => Type::U16,
            Self::F32(_) => Type::F32,
        }
    }

    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::U8(samples) => samples.iter().map(|&s| s.into()).collect(),
            Self::U16(samples) => samples.iter().map(|&s| s.into()).collect(),
            Self::F32(samples) => samples.clone(),
        }
    }

    fn pick(&self, indices: impl Iterator<Item = usize>) -> Self {
        match self {
            Self::U8(samples) => Self::U8(indices.map(|i| samples[i]).collect()),
            Self::U16(samples) => Self::U16(indices.map(|i| samples[i]).collect()),
            Self::F32(samples) => Self::F32(indices.map(|i| samples[i]).collect()),
        }
    }
}

/// One restoration.
#[derive(Clone)]
pub struct Request<'a> {
    pub samples: Samples,
    /// Index in `samples` of the sample that is 0 along every axis.
    pub start: usize,
    pub axes: &'a str,
    pub shape: Vec<usize>,
    /// In samples; `None`: without gaps.
    pub strides: Option<Vec<i64>>,
    pub options: Option<&'a str>,
    pub output: Type,
}

impl<'a> Request<'a> {
    /// Noise without gaps, restored to its own type.
    pub fn noise(kind: Type, axes: &'a str, shape: &[usize]) -> Self {
        let samples = Samples::noise(kind, shape.iter().product());
        Self { samples, start: 0, axes, shape: shape.to_vec(), strides: None, options: None, output: kind }
    }

    pub fn options(mut self, options: &'a str) -> Self {
        self.options = Some(options);
        self
    }

    /// The samples that the request describes, without gaps, in its axis order.
    pub fn gathered(&self) -> Samples {
        let strides = self.strides.clone().unwrap_or_else(|| dense(&self.shape));
        let index = |position: &[usize]| {
            let offset: i64 = position.iter().zip(&strides).map(|(&p, &s)| p as i64 * s).sum();
            (self.start as i64 + offset) as usize
        };
        self.samples.pick(positions(&self.shape).iter().map(|position| index(position)))
    }
}

/// Strides of an array without gaps, the last axis fastest.
pub fn dense(shape: &[usize]) -> Vec<i64> {
    (0..shape.len()).map(|i| shape[i + 1..].iter().product::<usize>() as i64).collect()
}

/// All positions in an array, the last axis fastest.
pub fn positions(shape: &[usize]) -> Vec<Vec<usize>> {
    shape.iter().fold(vec![vec![]], |found, &length| {
        found.iter().flat_map(|p| (0..length).map(move |i| [p.as_slice(), &[i]].concat())).collect()
    })
}

/// Why a binding refused: the name of the status without its prefix, and the message.
#[derive(Debug, PartialEq)]
pub struct Failure {
    pub status: &'static str,
    pub message: String,
}

/// What any binding can do.
pub trait Binding: Sync {
    type Model: Send + Sync;
    fn load(&self, path: &Path) -> Result<Self::Model, Failure>;
    fn load_bytes(&self, name: &str, bytes: &[u8]) -> Result<Self::Model, Failure>;
    fn builtin(&self, task: &str) -> Result<Self::Model, Failure>;
    fn facts(&self, model: &Self::Model) -> Value;
    fn output_info(&self, model: &Self::Model, request: &Request) -> Result<Value, Failure>;
    fn restore(
        &self,
        model: &Self::Model,
        request: &Request,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Samples, Failure>;
}

fn restore<B: Binding>(binding: &B, model: &B::Model, request: &Request) -> Samples {
    binding.restore(model, request, &mut |_, _| true).expect("a restoration")
}

fn model<B: Binding>(binding: &B, bytes: &[u8]) -> B::Model {
    binding.load_bytes("test model", bytes).expect("a test model loads")
}

#[track_caller]
fn assert_close(found: &Samples, expected: &Samples) {
    assert_eq!(found.kind(), expected.kind());
    let (found, expected) = (found.to_f32(), expected.to_f32());
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1.0_f32, |largest, s| largest.max(s.abs()));
    for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
        assert!((f - e).abs() <= 1e-5 * largest, "sample {i}: {f}, expected {e}");
    }
}

#[track_caller]
fn assert_refused<T>(outcome: Result<T, Failure>, status: &str, words: &[&str]) {
    let failure = outcome.err().expect("a refusal");
    assert_eq!(failure.status, status, "{}", failure.message);
    for word in words {
        assert!(failure.message.contains(word), "{word:?} is not in {:?}", failure.message);
    }
    assert!(!failure.message.contains('\n'), "more than one line: {:?}", failure.message);
}

pub fn identity_returns_its_input<B: Binding>(binding: &B) {
    let model = model(binding, &identity());
    for kind in [Type::U8, Type::U16, Type::F32] {
        for (axes, shape) in [
            ("YX", vec![37, 50]),
            ("YX", vec![1, 1]),
            ("XY", vec![9, 4]),
            ("ZYX", vec![3, 20, 17]),
            ("YXC", vec![12, 15, 3]),
            ("TCZYX", vec![2, 3, 2, 9, 8]),
            ("XZCYT", vec![8, 2, 3, 9, 2]),
            ("cyx", vec![2, 9, 8]),
        ] {
            let request = Request::noise(kind, axes, &shape);
            assert_close(&restore(binding, &model, &request), &request.samples);
        }
    }
}

pub fn strides_are_followed<B: Binding>(binding: &B) {
    let model = model(binding, &identity());
    let samples = Samples::noise(Type::U16, 40 * 60);
    // Every second row from the bottom up, every third column, of 40 rows with 60 columns; and the transpose.
    let request =
        Request { start: 39 * 60, strides: Some(vec![-120, 3]), samples, ..Request::noise(Type::U16, "YX", &[20, 20]) };
    assert_close(&restore(binding, &model, &request), &request.gathered());
    let transposed = Request { axes: "XY", strides: Some(vec![3, -120]), shape: vec![17, 20], ..request.clone() };
    assert_close(&restore(binding, &model, &transposed), &transposed.gathered());
    // A plane that is repeated along Z without being stored twice.
    let repeated = Request { axes: "ZYX", strides: Some(vec![0, -120, 3]), shape: vec![2, 20, 20], ..request };
    assert_close(&restore(binding, &model, &repeated), &repeated.gathered());
}

pub fn mean_agrees_with_a_loop<B: Binding>(binding: &B) {
    let model = model(binding, &mean3());
    let (rows, columns) = (41, 53);
    for options in [r#"{"normalization":{"kind":"none"}}"#, r#"{"tile":16,"threads":2}"#, "{}"] {
        let request = Request::noise(Type::F32, "YX", &[rows, columns]).options(options);
        let (input, found) = (request.samples.to_f32(), restore(binding, &model, &request).to_f32());
        // What lies outside the image is the network's affair, so the outermost pixels are not compared.
        for y in 1..rows - 1 {
            for x in 1..columns - 1 {
                let sum: f32 = (0..9).map(|i| input[(y + i / 3 - 1) * columns + x + i % 3 - 1]).sum();
                let found = found[y * columns + x];
                assert!((found - sum / 9.0).abs() <= 1e-4, "{options} {y} {x}: {found}, expected {}", sum / 9.0);
            }
        }
    }
}

pub fn twice_the_pixels<B: Binding>(binding: &B) {
    let model = model(binding, &upsample2());
    let mut request = Request::noise(Type::U8, "YXC", &[11, 14, 2]);
    let options = r#"{"pixel_size_um":0.5,"z_step_um":2}"#;
    request.options = Some(options);
    let info = binding.output_info(&model, &request).expect("an output");
    assert_eq!(info["axes"], "YXC");
    assert_eq!(info["shape"], json!([22, 28, 2]));
    assert_eq!(info["pixel_size_um"], 0.25);
    let nearest = positions(&[22, 28, 2]).into_iter().map(|p| (p[0] / 2 * 14 + p[1] / 2) * 2 + p[2]);
    assert_close(&restore(binding, &model, &request), &request.samples.pick(nearest));
}

pub fn integers_are_rounded_and_clamped<B: Binding>(binding: &B) {
    let model = model(binding, &identity());
    let samples = Samples::F32(vec![-3.0, 0.4, 0.5, 1.5, 2.5, 254.4, 255.4, 256.0, 65534.5, 70000.0]);
    let request = Request {
        samples,
        options: Some(r#"{"normalization":{"kind":"none"}}"#),
        output: Type::U8,
        ..Request::noise(Type::F32, "YX", &[2, 5])
    };
    let expected = Samples::U8(vec![0, 0, 1, 2, 3, 254, 255, 255, 255, 255]);
    assert_eq!(restore(binding, &model, &request), expected);
    let request = Request { output: Type::U16, ..request };
    let expected = Samples::U16(vec![0, 0, 1, 2, 3, 254, 255, 256, 65535, 65535]);
    assert_eq!(restore(binding, &model, &request), expected);
}

pub fn options_are_obeyed<B: Binding>(binding: &B) {
    let model = model(binding, &mean3());
    let request = Request::noise(Type::F32, "CYX", &[3, 70, 90]);
    let whole = restore(binding, &model, &request);
    for options in [
        "{}",
        r#"{"tile":32}"#,
        r#"{"tile":24,"overlap":9}"#,
        r#"{"tile":16,"overlap":4,"threads":1,"memory_limit_mb":64}"#,
        r#"{"threads":2,"channel":null}"#,
    ] {
        assert_close(&restore(binding, &model, &request.clone().options(options)), &whole);
    }
    let channel = request.clone().options(r#"{"channel":1}"#);
    assert_eq!(binding.output_info(&model, &channel).expect("an output")["shape"], json!([1, 70, 90]));
    assert_close(&restore(binding, &model, &channel), &whole.pick(70 * 90..2 * 70 * 90));
}

pub fn bad_options_are_refused<B: Binding>(binding: &B) {
    let model = model(binding, &identity());
    let cases: [(&str, &[&str]); 8] = [
        (r#"{"til":32}"#, &["til", "tile"]),
        (r#"{"normalization":{"kind":"magic"}}"#, &["magic", "percentile"]),
        (r#"{"normalization":{"kind":"percentile","low":2,"high":99,"mid":50}}"#, &["mid"]),
        (r#"{"tile":"big"}"#, &["big"]),
        (r#"{"tile":-1}"#, &["-1"]),
        (r#"{"channel":7}"#, &["7"]),
        ("{", &["options"]),
        ("", &["options"]),
    ];
    for (options, words) in cases {
        let request = Request::noise(Type::U8, "CYX", &[2, 8, 8]).options(options);
        assert_refused(binding.restore(&model, &request, &mut |_, _| true), "InvalidOption", words);
        assert_refused(binding.output_info(&model, &request), "InvalidOption", words);
    }
}

pub fn wrong_channels_are_refused<B: Binding>(binding: &B) {
    let model = model(binding, &two_channels());
    for (axes, shape) in [("CYX", vec![3, 8, 8]), ("YX", vec![8, 8])] {
        let request = Request::noise(Type::U8, axes, &shape);
        assert_refused(binding.restore(&model, &request, &mut |_, _| true), "ShapeMismatch", &["2", "channel"]);
        assert_refused(binding.output_info(&model, &request), "ShapeMismatch", &["2", "channel"]);
    }
}

pub fn bad_models_are_refused<B: Binding>(binding: &B) {
    assert_refused(binding.load_bytes("some name", b"no ONNX at all"), "BadModel", &["some name"]);
    assert_refused(binding.load_bytes("some name", b""), "BadModel", &["some name"]);
    let good = mean3();
    assert_refused(binding.load_bytes("cut", &good[..good.len() / 2]), "BadModel", &["cut"]);
    assert_refused(binding.load(Path::new("no/such/file.onnx")), "Io", &["file.onnx"]);
    assert_refused(binding.builtin("deblur"), "InvalidOption", &["deblur", "denoise", "axial", "super-resolve"]);
}

pub fn progress_comes_at_the_start_and_after_every_tile<B: Binding>(binding: &B) {
    let model = model(binding, &mean3());
    let request = Request::noise(Type::U8, "ZYX", &[2, 64, 64]).options(r#"{"tile":24,"threads":2}"#);
    let mut seen = Vec::new();
    let this_thread = std::thread::current().id();
    let mut progress = |done, total| {
        assert_eq!(std::thread::current().id(), this_thread);
        seen.push((done, total));
        true
    };
    binding.restore(&model, &request, &mut progress).expect("a restoration");
    let (_, total) = *seen.last().expect("some progress");
    assert!(total > 200, "{seen:?}");
    assert!(seen.iter().all(|&(_, t)| t == total), "{seen:?}");
    assert_eq!(seen.first(), Some(&(0, total)));
    assert!(seen.is_sorted(), "{seen:?}");
    assert!(total % 100 == 0 && seen.len() as u64 > total / 100, "{seen:?}");
    assert_eq!(seen.last(), Some(&(total, total)));
}

pub fn cancelling_stops_at_once<B: Binding>(binding: &B) {
    let model = model(binding, &mean3());
    let request = Request::noise(Type::U8, "ZYX", &[4, 96, 96]).options(r#"{"tile":24,"threads":2}"#);
    for stop_at in [1, 3] {
        let mut calls = 0;
        let outcome = binding.restore(&model, &request, &mut |_, _| {
            calls += 1;
            calls < stop_at
        });
        assert_refused(outcome, "Cancelled", &["cancelled"]);
        assert_eq!(calls, stop_at);
    }
    // The model is as good as before.
    restore(binding, &model, &request);
}

pub fn two_threads_share_a_model<B: Binding>(binding: &B) {
    let model = model(binding, &mean3());
    let request = Request::noise(Type::F32, "YX", &[80, 60]).options(r#"{"tile":32}"#);
    let alone = restore(binding, &model, &request);
    std::thread::scope(|scope| {
        let work = || (0..4).map(|_| restore(binding, &model, &request)).collect::<Vec<_>>();
        for thread in [scope.spawn(work), scope.spawn(work)] {
            assert!(thread.join().expect("no panic").iter().all(|result| *result == alone));
        }
    });
}

pub fn facts_have_their_keys<B: Binding>(binding: &B) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("größe 2.onnx");
    std::fs::write(&path, upsample2()).expect("a model file");
    let facts = binding.facts(&binding.load(&path).expect("a model"));
    for key in [
        "name",
        "task",
        "axes",
        "channels",
        "scale",
        "normalization",
        "tile_multiple",
        "halo",
        "description",
        "license",
        "authors",
        "trained_on",
        "method",
        "commit",
        "metrics",
        "scores",
        "axial_step",
        "source",
        "sha256",
    ] {
        assert!(facts.get(key).is_some(), "{key} is not in {facts}");
    }
    assert_eq!(facts["scale"], 2);
    assert_eq!(facts["channels"], 1);
    assert_eq!(facts["axes"], "YX");
    assert_eq!(facts["sha256"].as_str().map(str::len), Some(64));
    assert!(facts["source"].as_str().is_some_and(|source| source.contains("größe 2.onnx")), "{facts}");
}

pub fn result_is_described<B: Binding>(binding: &B) {
    let model = model(binding, &identity());
    let request = Request::noise(Type::U8, "XCY", &[5, 2, 7]);
    let info = binding.output_info(&model, &request).expect("an output");
    assert_eq!(info["axes"], "XCY");
    assert_eq!(info["shape"], json!([5, 2, 7]));
    assert_eq!((&info["pixel_size_um"], &info["z_step_um"]), (&Value::Null, &Value::Null));
    assert!(info["provenance"].as_str().is_some_and(|text| !text.is_empty()), "{info}");
    assert_eq!(info["caution"], Value::Null);
}

pub fn steps_that_an_axial_model_does_not_know_are_named<B: Binding>(binding: &B) {
    let model = binding.builtin("axial").expect("a built-in model");
    assert_eq!(binding.facts(&model)["axial_step"], json!([2.0, 6.0]));
    let caution = |step: &str| {
        let options = format!(r#"{{"pixel_size_um":0.1,"z_step_um":{step}}}"#);
        let request = Request::noise(Type::F32, "ZYX", &[3, 5, 7]).options(&options);
        binding.output_info(&model, &request).expect("an output")["caution"].clone()
    };
    for known in ["0.2", "0.35", "0.6"] {
        assert_eq!(caution(known), Value::Null, "{known} µm");
    }
    for (step, planes) in [("0.1", "lie 1 pixels apart"), ("2.05", "lie 20.5 pixels apart")] {
        let caution = caution(step);
        assert!(caution.as_str().is_some_and(|text| text.contains(planes) && text.contains("2 to 6")), "{caution}");
    }
}

pub fn denoising_is_built_in<B: Binding>(binding: &B) {
    let model = binding.builtin("denoise").expect("a built-in model");
    let facts = binding.facts(&model);
    assert_eq!((&facts["task"], &facts["source"]), (&json!("denoise"), &json!("built-in")));
    let request = Request::noise(Type::U16, "YX", &[40, 33]);
    let restored = restore(binding, &model, &request).to_f32();
    // Independent noise has no structure to be kept: a denoiser draws the samples together.
    let spread = |samples: &[f32]| {
        let mean = samples.iter().sum::<f32>() / samples.len() as f32;
        samples.iter().map(|s| (s - mean).powi(2)).sum::<f32>()
    };
    assert!(spread(&restored) < 0.5 * spread(&request.samples.to_f32()));
}

/// One test of each case, for the binding that the expression gives.
#[macro_export]
macro_rules! contract {
    ($binding:expr) => {
        $crate::contract! { @ $binding;
            identity_returns_its_input strides_are_followed mean_agrees_with_a_loop twice_the_pixels
            integers_are_rounded_and_clamped options_are_obeyed bad_options_are_refused wrong_channels_are_refused
            bad_models_are_refused progress_comes_at_the_start_and_after_every_tile cancelling_stops_at_once two_threads_share_a_model
            facts_have_their_keys result_is_described denoising_is_built_in
            steps_that_an_axial_model_does_not_know_are_named
        }
    };
    (@ $binding:expr; $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                common::contract::$case(&$binding);
            }
        )*
    };
}
