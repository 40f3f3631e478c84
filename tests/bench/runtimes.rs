//! mdr beside onnxruntime and torch: the same .onnx file, the same image, the same number of threads, one run of each
//! in turn, so that all see the same load of the machine. Each runtime is a process of its own, which also tells its
//! peak memory.
//!
//! `MDR_PYTHON=python cargo bench --bench runtimes -- [--threads N] [--rounds N] [--side N] [NET]...`; the Python needs
//! onnx, onnxruntime and torch. Prints a table: the seconds (minimum and median), the rivals' median ratio to mdr with
//! its quartiles, the part of the measured peak of fused multiplications that mdr would need without its savings
//! (above 1: fewer multiplications than the definition), and peak memory.

#[path = "../common/mod.rs"]
#[allow(missing_docs)]
mod common;

use common::{Attribute, Net, unet, unet_with, unet_with_kernel};
use mdr::network::{Network, RunOptions, Watch};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

fn nets() -> Vec<(&'static str, Vec<u8>)> {
    let built_in = mdr::models::builtin(mdr::Task::Denoise).expect("a built-in model").to_vec();
    vec![
        ("care-3x3", unet(2, 32)),
        ("care-5x5", unet_with_kernel(Net::new(2, 1), 2, 32, 5)),
        ("built-in", built_in),
        ("resnet", resnet(32, 6)),
        ("strided", strided(32)),
        ("care-3d", unet_with(Net::new(3, 1), 2, 16)),
    ]
}

fn attributes(stride: i64, pad: i64) -> Vec<(&'static str, Attribute)> {
    vec![("strides", Attribute::Ints(vec![stride; 2])), ("pads", Attribute::Ints(vec![pad; 4]))]
}

/// A generator of residual blocks between strided and transposed convolutions, as DeblurGAN's, without its norms.
fn resnet(features: usize, blocks: usize) -> Vec<u8> {
    let mut net = Net::new(2, 1);
    let relu = |net: &mut Net, x: String| net.op("Relu", &[&x], &[]);
    let mut x = net.conv("image", 1, features, 7);
    x = relu(&mut net, x);
    for level in 0..2 {
        x = net.conv_with(&x, features << level, features << (level + 1), 3, &attributes(2, 1));
        x = relu(&mut net, x);
    }
    for _ in 0..blocks {
        let y = net.conv(&x, 4 * features, 4 * features, 3);
        let y = relu(&mut net, y);
        let y = net.conv(&y, 4 * features, 4 * features, 3);
        x = net.op("Add", &[&x, &y], &[]);
    }
    for level in [1, 0] {
        let (from, to) = (features << (level + 1), features << level);
        let weight = net.weights(&[from, to, 3, 3]);
        let bias = net.floats(&[to], &vec![0.1; to]);
        let mut with = attributes(2, 1);
        with.push(("output_padding", Attribute::Ints(vec![1; 2])));
        x = net.op("ConvTranspose", &[&x, &weight, &bias], &with);
        x = relu(&mut net, x);
    }
    let y = net.conv(&x, features, 1, 7);
    let y = net.op("Tanh", &[&y], &[]);
    let y = net.op("Add", &[&y, "image"], &[]);
    net.finish(&y)
}

/// A U-Net of strided and transposed 4×4 convolutions with leaky rectifiers, as pix2pix's.
fn strided(features: usize) -> Vec<u8> {
    let mut net = Net::new(2, 1);
    let leaky = [("alpha", Attribute::Float(0.2))];
    let mut x = "image".to_owned();
    let mut skips = vec![];
    for (from, to) in [(1, features), (features, 2 * features), (2 * features, 4 * features)] {
        x = net.conv_with(&x, from, to, 4, &attributes(2, 1));
        x = net.op("LeakyRelu", &[&x], &leaky);
        skips.push(x.clone());
    }
    skips.pop();
    for (from, to) in [(4 * features, 2 * features), (4 * features, features), (2 * features, 1)] {
        let weight = net.weights(&[from, to, 4, 4]);
        let bias = net.floats(&[to], &vec![0.1; to]);
        x = net.op("ConvTranspose", &[&x, &weight, &bias], &attributes(2, 1));
        if let Some(skip) = skips.pop() {
            x = net.op("Relu", &[&x], &[]);
            x = net.op("Concat", &[&x, &skip], &[("axis", Attribute::Int(1))]);
        }
    }
    let y = net.op("Tanh", &[&x], &[]);
    net.finish(&y)
}

/// Before every run.
const PAUSE: Duration = Duration::from_millis(100);

/// A runtime at work on one network.
struct Runtime {
    name: &'static str,
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    multiplications: f64,
    seconds: Vec<f64>,
}

impl Runtime {
    fn start(name: &'static str, mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect(name);
        let to = child.stdin.take();
        let from = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut runtime = Self { name, child, to, from, multiplications: 0.0, seconds: vec![] };
        runtime.multiplications = runtime.number();
        runtime
    }

    fn number(&mut self) -> f64 {
        let mut line = String::new();
        self.from.read_line(&mut line).expect("a line");
        line.trim().parse().unwrap_or_else(|_| panic!("{} gave up: {line:?}", self.name))
    }

    fn once(&mut self) -> f64 {
        // Threads of who ran before may still be waiting for more work, which takes a processor each.
        std::thread::sleep(PAUSE);
        self.to.as_mut().expect("open").write_all(b"\n").expect("a reader");
        self.number()
    }

    /// Ends it; peak memory in bytes.
    fn end(mut self) -> f64 {
        drop(self.to.take());
        let memory = self.number();
        self.child.wait().expect("a child");
        memory
    }
}

fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * part).round() as usize]
}

/// Runs mdr as `rival.py` runs the others.
fn worker(path: &str, side: usize, threads: usize) {
    let bytes = std::fs::read(path).expect("a model");
    let network = Network::from_onnx(path, &bytes).expect("a good model");
    // A stack of planes of a quarter of the side has as many samples as an image.
    let tile = if network.spatial_axes() == 2 { [1, side, side] } else { [side.div_ceil(32), side / 4, side / 4] };
    let image = common::noise(1, tile.iter().product());
    let mut output = vec![];
    println!("0");
    for _ in std::io::stdin().lines() {
        let start = Instant::now();
        let options = RunOptions { threads, precise: false };
        network.run_into(&image, tile, &mut output, options, &Watch::default()).expect("a run");
        println!("{}", start.elapsed().as_secs_f64());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
    println!("{}", 1024 * peak.unwrap_or(0_u64));
}

/// Fused multiplications per second of one thread, in the widest vectors: the most of several tries.
#[cfg(target_arch = "x86_64")]
fn peak() -> f64 {
    use std::arch::x86_64::*;
    #[target_feature(enable = "avx512f")]
    fn wide(rounds: usize) -> f32 {
        let mut sums = [_mm512_set1_ps(1.0); 14];
        let (factor, term) = std::hint::black_box((_mm512_set1_ps(0.999), _mm512_set1_ps(1e-3)));
        for _ in 0..std::hint::black_box(rounds) {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, term);
            }
        }
        sums.iter().map(|&sum| _mm512_reduce_add_ps(sum)).sum()
    }
    #[target_feature(enable = "avx2,fma")]
    fn narrow(rounds: usize) -> f32 {
        let mut sums = [_mm256_set1_ps(1.0); 12];
        let (factor, term) = std::hint::black_box((_mm256_set1_ps(0.999), _mm256_set1_ps(1e-3)));
        for _ in 0..std::hint::black_box(rounds) {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, term);
            }
        }
        sums.iter().map(|&sum| _mm_cvtss_f32(_mm256_castps256_ps128(sum))).sum()
    }
    let rounds = std::hint::black_box(3_000_000);
    let mut best = f64::MAX;
    let lanes = if is_x86_feature_detected!("avx512f") { 14 * 16 } else { 12 * 8 };
    for _ in 0..10 {
        let start = Instant::now();
        // SAFETY: the instructions were asked for.
        std::hint::black_box(unsafe { if lanes > 100 { wide(rounds) } else { narrow(rounds) } });
        best = best.min(start.elapsed().as_secs_f64());
    }
    (lanes * rounds) as f64 / best
}

#[cfg(not(target_arch = "x86_64"))]
fn peak() -> f64 {
    f64::NAN
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [command, path, side, threads] = &arguments[..]
        && command == "worker"
    {
        return worker(path, side.parse().expect("a side"), threads.parse().expect("threads"));
    }
    let mut option = |name: &str, default: usize| match arguments.iter().position(|argument| argument == name) {
        Some(at) => arguments.drain(at..at + 2).nth(1).and_then(|value| value.parse().ok()).expect("a number"),
        None => default,
    };
    let (threads, rounds, side) = (option("--threads", 1), option("--rounds", 9), option("--side", 512));
    let Some(python) = std::env::var_os("MDR_PYTHON") else {
        return eprintln!("skipped: MDR_PYTHON names no Python with onnx, onnxruntime and torch");
    };
    let folder = tempfile::tempdir().expect("a folder");
    let peak = peak() * threads as f64;
    println!("{side}² pixels, {threads} thread(s), {rounds} rounds; peak {:.0} GFLOP/s", 2.0 * peak / 1e9);
    println!(
        "| net | mdr min, median (ms) | onnxruntime / mdr | torch / mdr | of peak | MB: mdr, onnxruntime, torch |"
    );
    println!("|---|---|---|---|---|---|");
    for (name, bytes) in nets() {
        if !arguments.is_empty() && !arguments.iter().any(|argument| argument == name) {
            continue;
        }
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        let start = |runtime: &'static str| {
            let mut command = Command::new(if runtime == "mdr" {
                std::env::current_exe().expect("this program").into_os_string()
            } else {
                python.clone()
            });
            if runtime == "mdr" {
                command.arg("worker");
            } else {
                command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/rival.py")).arg(runtime);
            }
            command.arg(&path).args([side.to_string(), threads.to_string()]);
            Runtime::start(runtime, command)
        };
        let mut all = ["mdr", "onnxruntime", "torch"].map(start);
        for runtime in &mut all {
            runtime.once();
        }
        for _ in 0..rounds {
            for runtime in &mut all {
                let seconds = runtime.once();
                runtime.seconds.push(seconds);
            }
        }
        let own = all[0].seconds.clone();
        let multiplications = all[1].multiplications;
        let ratio = |runtime: &Runtime| {
            let ratios: Vec<f64> = runtime.seconds.iter().zip(&own).map(|(other, own)| other / own).collect();
            let [low, middle, high] = [0.25, 0.5, 0.75].map(|part| quantile(&ratios, part));
            format!("{middle:.2} ({low:.2}–{high:.2})")
        };
        let ratios = [ratio(&all[1]), ratio(&all[2])];
        let memory = all.map(|runtime| format!("{:.0}", runtime.end() / 1e6));
        println!(
            "| {name} | {:.1}, {:.1} | {} | {} | {:.2} | {} |",
            1e3 * quantile(&own, 0.0),
            1e3 * quantile(&own, 0.5),
            ratios[0],
            ratios[1],
            multiplications / quantile(&own, 0.0) / peak,
            memory.join(", ")
        );
    }
}
