//! Every kernel, for every set of instructions that this processor has, against a sum in f64 over single samples.

use super::Watch;
use super::direct::{Direct, Window, lanes_of, transposed};
use super::program::{Arena, Layout, Manner, Op, Program, Step, Tensor};
use super::simd::Isa;
use super::transform::Method;
use super::view::{Activation, View};
use super::winograd::Winograd;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

/// One step between copies in and out.
struct Case {
    op: Op,
    /// Sources: channels, and whether they count as doubled.
    sources: Vec<(usize, bool)>,
    /// Sides of a tensor that is added to the result, if there is one; it is the last input.
    added: Option<[usize; 2]>,
    /// Whether the largest of each 2 by 2 pixels are made too.
    halved: bool,
    outputs: usize,
    isa: Isa,
}

impl Case {
    /// Runs it on inputs of this size.
    fn run(self, inputs: &[Vec<f32>], size: [usize; 2], threads: usize) -> Vec<f32> {
        let mut program = Program { isa: self.isa, tensors: vec![], steps: vec![], inputs: vec![], outputs: vec![] };
        let tensor = |program: &mut Program, channels: usize, external: bool| {
            let lanes = if external { 1 } else { lanes_of(self.isa, channels) };
            program.tensors.push(Tensor { channels, lanes, external });
            program.tensors.len() - 1
        };
        let mut from = vec![];
        let mut sizes = vec![];
        let sources =
            self.sources.iter().map(|&(channels, doubled)| (channels, size.map(|n| n >> usize::from(doubled))));
        for (channels, size) in sources.chain(self.added.map(|size| (self.outputs, size))) {
            let outside = tensor(&mut program, channels, true);
            let inside = tensor(&mut program, channels, false);
            program.inputs.push(vec![outside]);
            program.steps.push(Step {
                name: String::new(),
                op: Op::Copy(0),
                from: vec![outside],
                to: inside,
                halved: None,
            });
            from.push(inside);
            sizes.push(size);
        }
        let made = tensor(&mut program, self.outputs, false);
        let halved = self.halved.then(|| tensor(&mut program, self.outputs, false));
        program.steps.push(Step { name: String::new(), op: self.op, from, to: made, halved });
        for inside in [made].into_iter().chain(halved) {
            let outside = tensor(&mut program, self.outputs, true);
            program.outputs.push(vec![outside]);
            let (name, op) = (String::new(), Op::Copy(0));
            program.steps.push(Step { name, op, from: vec![inside], to: outside, halved: None });
        }
        program.pack();
        let layout = Layout::new(&program, &sizes).expect("a size that fits");
        // What is not written stays NaN.
        let outputs = (0..program.outputs.len()).map(|index| {
            let [rows, columns] = layout.output_size(&program, index);
            vec![f32::NAN; self.outputs * rows * columns]
        });
        let mut outputs: Vec<Vec<f32>> = outputs.collect();
        let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let mut arena = Arena::default();
        let watch = Watch::default();
        let manner = |threads| Manner { threads, watch: &watch, profile: None };
        let mut run = |program: &Program, layout: &Layout, threads, outputs: &mut [Vec<f32>]| {
            outputs.iter_mut().for_each(|output| output.fill(f32::NAN));
            let mut given: Vec<&mut [f32]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
            program.run(layout, &mut arena, &inputs, &mut given, manner(threads));
        };
        run(&program, &layout, threads, &mut outputs);
        let first = outputs.clone();
        if self.halved {
            let ([rows, columns], [_, half]) = (layout.output_size(&program, 0), layout.output_size(&program, 1));
            for (i, found) in outputs[1].iter().enumerate() {
                let (channel, y, x) = (i / half / (rows / 2), i / half % (rows / 2), i % half);
                let four = [(0, 0), (0, 1), (1, 0), (1, 1)];
                let four = four.map(|(dy, dx)| first[0][(channel * rows + 2 * y + dy) * columns + 2 * x + dx]);
                assert_eq!(*found, four.into_iter().fold(f32::MIN, f32::max), "largest of 4 at {channel}, {y}, {x}");
            }
        }
        let bits = |outputs: &[Vec<f32>]| outputs.concat().iter().map(|sample| sample.to_bits()).collect::<Vec<_>>();
        run(&program, &layout, 1, &mut outputs);
        assert_eq!(bits(&first), bits(&outputs), "another result with 1 thread");
        if self.halved {
            // Nobody asks for the rest.
            program.outputs.remove(0);
            program.steps.retain(|step| step.op != Op::Copy(0) || step.from != [made]);
            let layout = Layout::new(&program, &sizes).expect("a size that fits");
            run(&program, &layout, threads, &mut outputs[1..]);
            assert_eq!(bits(&first[1..]), bits(&outputs[1..]), "another result alone");
        }
        first.into_iter().next().expect("a result")
    }
}

/// A convolution in f64, sample by sample: C, Y, X in and out.
fn oracle(input: &[f32], size: [usize; 2], window: Window, out: [usize; 2], weights: &[f32], bias: &[f32]) -> Vec<f64> {
    let inputs = input.len() / (size[0] * size[1]);
    let [height, width] = window.kernel;
    let mut result = vec![];
    for (o, bias) in bias.iter().enumerate() {
        for y in 0..out[0] {
            for x in 0..out[1] {
                let mut sum = f64::from(*bias);
                for i in 0..inputs {
                    for (ky, kx) in (0..height).flat_map(|ky| (0..width).map(move |kx| (ky, kx))) {
                        let row = window.first(0, y) + (ky * window.dilation[0]) as isize;
                        let column = window.first(1, x) + (kx * window.dilation[1]) as isize;
                        if (0..size[0] as isize).contains(&row) && (0..size[1] as isize).contains(&column) {
                            let at = (i * size[0] + row as usize) * size[1] + column as usize;
                            let weight = weights[((o * inputs + i) * height + ky) * width + kx];
                            sum += f64::from(weight) * f64::from(input[at]);
                        }
                    }
                }
                result.push(sum);
            }
        }
    }
    result
}

fn noise(random: &mut Pcg64, n: usize) -> Vec<f32> {
    (0..n).map(|_| random.random_range(-1.0..1.0)).collect()
}

/// Pixels repeated 2 by 2.
fn doubled(input: &[f32], size: [usize; 2], channels: usize) -> Vec<f32> {
    let [rows, columns] = size.map(|side| side / 2);
    let mut result = vec![];
    for channel in 0..channels {
        for y in 0..size[0] {
            result.extend((0..size[1]).map(|x| input[(channel * rows + y / 2) * columns + x / 2]));
        }
    }
    result
}

fn activated(value: f64, activation: Activation) -> f64 {
    match activation {
        Activation::Relu => value.max(0.0),
        Activation::Leaky(slope) => {
            if value < 0.0 {
                value * f64::from(slope)
            } else {
                value
            }
        }
        _ => value,
    }
}

/// Largest error allowed, as a part of the largest result: rounding errors of a sum add up like a random walk.
fn assert_close(what: &str, found: &[f32], expected: &[f64], terms: usize, factor: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let range = expected.iter().fold(1.0_f64, |range, x| range.max(x.abs()));
    let tolerance = factor * range * (terms as f64).sqrt().max(4.0);
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let close = (f64::from(*found) - expected).abs() <= tolerance;
        assert!(close, "{what}, sample {i}: {found}, expected {expected} within {tolerance:.1e}");
    }
}

#[test]
fn curved_activations_agree_with_f64() {
    let f64_of = |activation, x: f64| if activation == Activation::Tanh { x.tanh() } else { 1.0 / (1.0 + (-x).exp()) };
    for activation in [Activation::Tanh, Activation::Sigmoid] {
        let many = (-200_000..200_000).map(|i| i as f32 * 1e-4);
        let odd = [0.0, 1e-30, -1e-30, 88.0, -88.0, 1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY];
        let values: Vec<f32> = many.chain(odd).collect();
        let mut found = values.clone();
        activation.apply_all(&mut found);
        for (x, found) in values.into_iter().zip(found) {
            let found = f64::from(found);
            let expected = f64_of(activation, f64::from(x));
            assert!((found - expected).abs() < 2e-7, "{activation:?} of {x}: {found}, expected {expected}");
        }
        let mut nan = [f32::NAN; 9];
        activation.apply_all(&mut nan);
        assert!(nan.iter().all(|value| value.is_nan()));
    }
}

/// Tiles of three pixels would begin at the first of a pair as often as at the second.
#[test]
fn enlarged_inputs_have_tiles_of_even_sides() {
    for side in 1..=7 {
        let window = Window { kernel: [side; 2], stride: [1, 1], dilation: [1, 1], before: [0, 0] };
        for precise in [true, false] {
            let method = Winograd::method(window, false, 1, true, precise);
            assert!(method.is_none_or(|method| method.tile % 2 == 0), "{method:?}");
        }
    }
}

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.iter().copied().filter(|isa| isa.is_here())
}

const ACTIVATIONS: [Activation; 3] = [Activation::None, Activation::Relu, Activation::Leaky(0.2)];

#[test]
fn winograd_agrees_with_the_definition() {
    let mut random = Pcg64::seed_from_u64(4);
    let mut halvings = 0;
    for round in 0..150 {
        let (side, stride) = [(3, 1), (5, 1), (2, 1), (4, 2), (3, 2), (5, 2)][round % 6];
        let outputs = random.random_range(5..=if round % 4 == 0 { 70 } else { 20 });
        let several = random.random_range(1..=3);
        let folded = stride == 1 && side > 2 && round % 5 < 2;
        let sources: Vec<(usize, bool)> = (0..several)
            .map(|i| (random.random_range(5..=if round % 5 == 0 { 67 } else { 18 }), folded && i % 2 == 0))
            .collect();
        let mut size = [random.random_range(1..=40), random.random_range(1..=if round % 7 == 0 { 400 } else { 40 })];
        let (mut before, mut after) = ([side / 2; 2], [side / 2; 2]);
        if round % 3 == 2 {
            before = before.map(|_| random.random_range(0..side));
            after = after.map(|_| random.random_range(0..side));
        }
        // The field must fit, and enlarged sides are even.
        size = size.map(|length: usize| (length + side).next_multiple_of(2) - usize::from(!folded && round % 2 == 0));
        let channels: usize = sources.iter().map(|source| source.0).sum();
        let (weights, bias) = (noise(&mut random, outputs * channels * side * side), noise(&mut random, outputs));
        let mut inputs: Vec<Vec<f32>> = sources
            .iter()
            .map(|&(channels, doubled)| noise(&mut random, channels * size[0] * size[1] / if doubled { 4 } else { 1 }))
            .collect();
        let joined: Vec<f32> = inputs
            .iter()
            .zip(&sources)
            .flat_map(|(input, &(channels, twice))| if twice { doubled(input, size, channels) } else { input.clone() })
            .collect();
        let window = Window {
            kernel: [side; 2],
            stride: [stride; 2],
            dilation: [1, 1],
            before: before.map(|n: usize| n as isize),
        };
        let padded = [0, 1].map(|axis| size[axis] + before[axis] + after[axis]);
        let out = padded.map(|length| (length - side) / stride + 1);
        let more = [0, 1].map(|axis| (before[axis] + after[axis] + stride) as isize - side as isize);
        let activation = ACTIVATIONS[round % 3];
        let mut expected = oracle(&joined, size, window, out, &weights, &bias);
        let added = (round % 5 == 1).then_some(out);
        if added.is_some() {
            inputs.push(noise(&mut random, outputs * out[0] * out[1]));
            expected.iter_mut().zip(&inputs[several]).for_each(|(sum, &term)| *sum += f64::from(term));
        }
        let expected: Vec<f64> = expected.into_iter().map(|value| activated(value, activation)).collect();
        // As for few channels and as for many.
        let kernels = if round % 4 < 2 { 1 } else { usize::MAX };
        for isa in isas() {
            for precise in [true, false] {
                let doubled = sources.iter().any(|source| source.1);
                let Some(method) = Winograd::method(window, false, kernels, doubled, precise) else {
                    assert!(precise, "no method for {window:?}");
                    continue;
                };
                let mut winograd = Winograd::convolution(isa, method, window, &sources, &weights, &bias);
                winograd.activation = activation;
                if round % 2 == 0 {
                    winograd.spare_weights();
                }
                let what = format!("{isa:?}, {method:?}, {sources:?} to {outputs}, {window:?}, {size:?}, {after:?}");
                let halved = winograd.can_halve() && out.iter().all(|&side| side > 1);
                halvings += usize::from(halved);
                if round % 3 > 0 {
                    winograd.end_at(1 + round, halved);
                }
                let (op, sources) = (Op::Winograd(winograd, more), sources.clone());
                let case = Case { op, sources, added, halved, outputs, isa };
                let found = case.run(&inputs, size, 1 + round % 3);
                assert_close(&what, &found, &expected, channels * side * side, factor(method));
            }
        }
    }
    assert!(halvings > 50, "{halvings} results were halved");
}

/// A transposed convolution in f64: every input pixel adds its kernel to the result; C, Y, X in and out.
fn transposed_oracle(
    input: &[f32],
    size: [usize; 2],
    window: Window,
    out: [usize; 2],
    weights: &[f32],
    bias: &[f32],
) -> Vec<f64> {
    let inputs = input.len() / (size[0] * size[1]);
    let [height, width] = window.kernel;
    let mut result: Vec<f64> = bias.iter().flat_map(|&bias| vec![f64::from(bias); out[0] * out[1]]).collect();
    for o in 0..bias.len() {
        for (at, &sample) in input.iter().enumerate() {
            let (i, y, x) = (at / (size[0] * size[1]), at / size[1] % size[0], at % size[1]);
            for (ky, kx) in (0..height).flat_map(|ky| (0..width).map(move |kx| (ky, kx))) {
                let row = (y * window.stride[0] + ky) as isize - window.before[0];
                let column = (x * window.stride[1] + kx) as isize - window.before[1];
                if (0..out[0] as isize).contains(&row) && (0..out[1] as isize).contains(&column) {
                    let weight = weights[((o * inputs + i) * height + ky) * width + kx];
                    result[(o * out[0] + row as usize) * out[1] + column as usize] +=
                        f64::from(weight) * f64::from(sample);
                }
            }
        }
    }
    result
}

#[test]
fn transposed_winograd_agrees_with_the_definition() {
    let mut halvings = 0;
    let mut random = Pcg64::seed_from_u64(6);
    for round in 0..60 {
        let side = [4, 3, 5, 6][round % 4];
        let outputs = random.random_range(5..=40);
        let sources: Vec<(usize, bool)> =
            (0..random.random_range(1..=2)).map(|_| (random.random_range(5..=40), false)).collect();
        let size: [usize; 2] =
            [random.random_range(2..=20), random.random_range(2..=if round % 7 == 0 { 200 } else { 20 })];
        let mut cut = || [random.random_range(0..=2), random.random_range(0..=2)];
        // Cut off before and after, and lengthened.
        let (before, after, adjust) = (cut(), cut(), cut().map(|n: usize| n / 2));
        let channels: usize = sources.iter().map(|source| source.0).sum();
        let (weights, bias) = (noise(&mut random, outputs * channels * side * side), noise(&mut random, outputs));
        let mut inputs: Vec<Vec<f32>> =
            sources.iter().map(|source| noise(&mut random, source.0 * size[0] * size[1])).collect();
        let window =
            Window { kernel: [side; 2], stride: [2, 2], dilation: [1, 1], before: before.map(|n: usize| n as isize) };
        let more = [0, 1].map(|axis| (side + adjust[axis]) as isize - (before[axis] + after[axis]) as isize - 2);
        let out = [0, 1].map(|axis| (2 * size[axis]).checked_add_signed(more[axis]).expect("a size"));
        let mut expected = transposed_oracle(&inputs.concat(), size, window, out, &weights, &bias);
        let added = (round % 3 == 1).then_some(out);
        if added.is_some() {
            inputs.push(noise(&mut random, outputs * out[0] * out[1]));
            expected.iter_mut().zip(&inputs[sources.len()]).for_each(|(sum, &term)| *sum += f64::from(term));
        }
        let precise = round / 4 % 2 == 0;
        let kernels = if round / 8 % 2 == 0 { 1 } else { usize::MAX };
        for isa in isas() {
            let Some(method) = Winograd::method(window, true, kernels, false, precise) else {
                assert!(precise, "no method for {window:?}");
                continue;
            };
            let mut winograd = Winograd::transposed(isa, method, window, &sources, &weights, &bias);
            let what = format!("{isa:?}, {method:?}, {sources:?} to {outputs}, {window:?}, {size:?} to {out:?}");
            let halved = winograd.can_halve() && out.iter().all(|&side| side > 1);
            halvings += usize::from(halved);
            if round % 3 > 0 {
                winograd.end_at(1 + round, halved);
            }
            let (op, sources) = (Op::Winograd(winograd, more), sources.clone());
            let case = Case { op, sources, added, halved, outputs, isa };
            let found = case.run(&inputs, size, 1 + round % 3);
            assert_close(&what, &found, &expected, channels * side * side, factor(method));
        }
    }
    assert!(halvings > 0, "no result was halved");
}

/// What a method's rounding errors may be: see [`assert_close`].
fn factor(method: Method) -> f64 {
    match method.side {
        4 | 7 => 2e-7,
        6 => 4e-7,
        _ => 8e-7,
    }
}

/// Of few channels and of many: those of one or two sources, samples of these, weights and bias.
struct Layer {
    sources: Vec<usize>,
    inputs: Vec<Vec<f32>>,
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Layer {
    fn random(random: &mut Pcg64, kernel: [usize; 2], size: [usize; 2]) -> Self {
        let channels = |random: &mut Pcg64| {
            let most = [3, 8, 20, 40][random.random_range(0..4)];
            random.random_range(1..=most)
        };
        let outputs = channels(random);
        let sources: Vec<usize> = (0..random.random_range(1..=2)).map(|_| channels(random)).collect();
        let all: usize = sources.iter().sum();
        let (weights, bias) = (noise(random, outputs * all * kernel[0] * kernel[1]), noise(random, outputs));
        let inputs = sources.iter().map(|&channels| noise(random, channels * size[0] * size[1])).collect();
        Self { sources, inputs, weights, bias }
    }
}

#[test]
fn direct_convolutions_agree_with_the_definition() {
    let mut random = Pcg64::seed_from_u64(5);
    for round in 0..120 {
        let mut side = |most: usize| [random.random_range(1..=most), random.random_range(1..=most)];
        let kernel = if round % 3 == 0 { [[1, 1], [5, 5], [4, 4], [7, 7]][round / 3 % 4] } else { side(7) };
        let stride = if round % 2 == 0 { [1, 1] } else { side(3) };
        let dilation = if round % 5 == 0 { side(3) } else { [1, 1] };
        let (before, after) = (side(4), side(4));
        let field = [0, 1].map(|axis| (kernel[axis] - 1) * dilation[axis] + 1);
        let mut size = side(if round % 7 == 0 { 350 } else { 30 });
        size[0] = size[0].min(30);
        size = [0, 1].map(|axis: usize| size[axis].max(field[axis]));
        let Layer { sources, inputs, weights, bias } = Layer::random(&mut random, kernel, size);
        let (outputs, all) = (bias.len(), sources.iter().sum::<usize>());
        let window = Window { kernel, stride, dilation, before: before.map(|n: usize| n as isize) };
        let out = [0, 1].map(|axis| (size[axis] + before[axis] + after[axis] - field[axis]) / stride[axis] + 1);
        let activation = ACTIVATIONS[round % 3];
        let expected = oracle(&inputs.concat(), size, window, out, &weights, &bias);
        let expected: Vec<f64> = expected.into_iter().map(|value| activated(value, activation)).collect();
        for isa in isas() {
            let mut direct = Direct::new(isa, window, &sources, &weights, &bias);
            direct.activation = activation;
            let sources: Vec<(usize, bool)> = sources.iter().map(|&channels| (channels, false)).collect();
            let what = format!("{isa:?}, {sources:?} to {outputs}, {window:?}, {size:?}");
            let case = Case { op: Op::Direct(direct, after), sources, added: None, halved: false, outputs, isa };
            let found = case.run(&inputs, size, 1 + round % 3);
            assert_close(&what, &found, &expected, all * kernel[0] * kernel[1], 2e-7);
        }
    }
}

#[test]
fn transposed_convolutions_agree_with_the_definition() {
    let mut random = Pcg64::seed_from_u64(9);
    let mut paired = 0;
    for round in 0..120 {
        let mut side = |least: usize, most: usize| [0, 1].map(|_| random.random_range(least..=most));
        let (kernel, stride) = if round % 2 == 0 { ([4, 4], [2, 2]) } else { (side(1, 6), side(1, 3)) };
        let (before, after, adjust) = (side(0, 3), side(0, 2), side(0, 1));
        let mut size = side(3, if round % 7 == 0 { 350 } else { 30 });
        size[0] = size[0].min(30);
        let Layer { sources, inputs, weights, bias } = Layer::random(&mut random, kernel, size);
        let (outputs, all) = (bias.len(), sources.iter().sum::<usize>());
        let window = Window { kernel, stride, dilation: [1, 1], before: before.map(|n: usize| n as isize) };
        let more = [0, 1].map(|axis| (kernel[axis] + adjust[axis]) as isize - (before[axis] + after[axis]) as isize);
        let out = [0, 1].map(|axis| ((size[axis] - 1) * stride[axis]).saturating_add_signed(more[axis]));
        if out.contains(&0) {
            continue;
        }
        let activation = ACTIVATIONS[round % 3];
        let expected = transposed_oracle(&inputs.concat(), size, window, out, &weights, &bias);
        let expected: Vec<f64> = expected.into_iter().map(|value| activated(value, activation)).collect();
        for isa in isas() {
            let mut phases = transposed(isa, window, &sources, &weights, &bias);
            phases.iter_mut().for_each(|phase| phase.direct.activation = activation);
            paired += usize::from(phases.iter().any(|phase| phase.direct.results() == 2));
            let sources: Vec<(usize, bool)> = sources.iter().map(|&channels| (channels, false)).collect();
            let what = format!("{isa:?}, {sources:?} to {outputs}, {window:?}, {size:?} to {out:?}");
            let op = Op::Transposed { phases, stride, more };
            let case = Case { op, sources, added: None, halved: false, outputs, isa };
            let found = case.run(&inputs, size, 1 + round % 3);
            assert_close(&what, &found, &expected, all * kernel[0] * kernel[1], 2e-7);
        }
    }
    assert!(paired > 0, "no results were paired");
}

/// Memory that lies before a page which nobody may read.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
struct Guarded {
    start: *mut libc::c_void,
    len: usize,
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
impl Guarded {
    const PAGE: usize = 1 << 16;

    fn new(samples: usize) -> Self {
        let len = (4 * samples).next_multiple_of(Self::PAGE) + Self::PAGE;
        // SAFETY: new memory, of which the last page is closed before anybody knows of it.
        unsafe {
            let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let start = libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0);
            assert!(start != libc::MAP_FAILED);
            assert_eq!(libc::mprotect(start.wrapping_byte_add(len - Self::PAGE), Self::PAGE, libc::PROT_NONE), 0);
            Self { start, len }
        }
    }

    /// Behind the last sample.
    fn end(&self) -> *mut f32 {
        self.start.wrapping_byte_add(self.len - Self::PAGE).cast()
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: what `new` has mapped.
        unsafe { libc::munmap(self.start, self.len) };
    }
}

/// Behind the margin that `reach` asks for there is nothing: a kernel that reads on ends the test program.
#[test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn direct_kernels_keep_to_their_margins() {
    use super::direct::Pixels;
    for isa in isas() {
        for (inputs, outputs) in [(3, 20), (8, 20), (16, 2), (40, 40)] {
            for (width, stride, dilation) in
                [(1, 1, 1), (2, 1, 1), (3, 1, 1), (5, 1, 1), (7, 1, 1), (3, 1, 2), (4, 3, 1), (4, 2, 1)]
            {
                let window =
                    Window { kernel: [1, width], stride: [1, stride], dilation: [1, dilation], before: [0, 1] };
                let weights = vec![1.0; inputs * outputs * width];
                let bias = vec![0.0; outputs];
                let mut direct = Direct::new(isa, window, &[inputs], &weights, &bias);
                if (width, stride, lanes_of(isa, inputs) > 1, lanes_of(isa, outputs)) == (4, 2, true, 1) {
                    direct = transposed(isa, window, &[inputs], &weights, &bias).remove(0).direct;
                    assert_eq!(direct.results(), 2);
                }
                let view = |end: *mut f32, channels: usize, columns: usize| {
                    let lanes = lanes_of(isa, channels);
                    let (blocks, block_stride) = (channels.div_ceil(lanes), columns * lanes);
                    let base = end.wrapping_sub(blocks * block_stride);
                    View { base, slots: 1, size: [1, columns], channels, lanes, row_stride: 0, block_stride }
                };
                for count in 1..=100_usize {
                    // One column of margin before the row.
                    let columns = 1 + direct.reach(count.div_ceil(direct.results())) as usize;
                    let (memory, result) =
                        (Guarded::new((inputs + 16) * columns), Guarded::new((outputs + 16) * count));
                    let mut from = view(memory.end(), inputs, columns);
                    from.base = from.base.wrapping_add(from.lanes);
                    let to = view(result.end(), outputs, count);
                    let pixels = Pixels { row: 0, first: 0, step: 1, count };
                    // SAFETY: all that the views promise is there.
                    unsafe { direct.compute(&[from], &to, std::ptr::null(), 0, 0, pixels) }
                }
            }
        }
    }
}

#[test]
fn rows_are_reflected_as_one_would_by_hand() {
    for (height, before, after) in [(2, 1, 1), (5, 3, 4), (40, 3, 3), (7, 6, 0), (33, 0, 8)] {
        let input: Vec<f32> = (0..height * 4).map(|i| i as f32).collect();
        let op = Op::Reflect([before, 0], [after, 0]);
        let case = Case { op, sources: vec![(1, false)], added: None, halved: false, outputs: 1, isa: Isa::Portable };
        let found = case.run(std::slice::from_ref(&input), [height, 4], 2);
        let rows: Vec<usize> = (0..height + before + after)
            .map(|y| (y as isize - before as isize).unsigned_abs())
            .map(|y| if y < height { y } else { 2 * (height - 1) - y })
            .collect();
        let expected: Vec<f32> = rows.into_iter().flat_map(|y| input[y * 4..][..4].to_vec()).collect();
        assert_eq!(found, expected, "{height} {before} {after}");
    }
}
