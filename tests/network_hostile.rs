//! Damaged and malicious model files by the thousand: each loads or is refused, runs or fails, and never panics,
//! hangs or takes memory without bound. The same counting allocator measures whether the memory that a network says
//! it needs is what it takes. One test at a time: they share the counter.
#![allow(unsafe_code)]

mod common;

use common::*;
use mdr::network::{Network, RunOptions, Watch};
use prost::Message;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tract_onnx::pb;

/// Counts the bytes that are allocated, and the most there ever were.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

thread_local! {
    /// How often this thread has allocated.
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Most bytes at a time above what there was before, while `work` runs.
fn peak_of<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = work();
    (PEAK.load(Ordering::Relaxed).saturating_sub(before), result)
}

/// Loads and runs a tile of 16×16 (×16); whether it ran.
fn try_out(bytes: &[u8]) -> Result<(), mdr::Error> {
    let network = Network::from_onnx("hostile", bytes)?;
    let tile = if network.spatial_axes() == 3 { [16; 3] } else { [1, 16, 16] };
    let samples = network.channels().0 * tile.iter().product::<usize>();
    let _ = network.memory_bytes(tile, RunOptions::default());
    network.run(&vec![0.5; samples], tile)?;
    Ok(())
}

fn survives(what: &str, bytes: &[u8]) -> bool {
    let start = Instant::now();
    let (peak, result) = peak_of(|| try_out(bytes));
    assert!(peak < 512 << 20, "{what}: {} MB", peak >> 20);
    assert!(start.elapsed() < Duration::from_secs(20), "{what}: {:?}", start.elapsed());
    if let Err(error) = &result {
        assert!(!error.to_string().contains('\n'), "{what}: {error}");
    }
    result.is_ok()
}

fn seeds() -> Vec<Vec<u8>> {
    let mut transposed = Net::new(2, 1);
    let x = transposed.conv_with(
        "image",
        1,
        4,
        4,
        &[("pads", Attribute::Ints(vec![1; 4])), ("strides", Attribute::Ints(vec![2, 2]))],
    );
    let weight = transposed.weights(&[4, 1, 4, 4]);
    let y = transposed.op(
        "ConvTranspose",
        &[&x, &weight],
        &[("pads", Attribute::Ints(vec![1; 4])), ("strides", Attribute::Ints(vec![2, 2]))],
    );
    let mut shapes = Net::new(2, 1);
    let pads = shapes.ints(&[0, 0, 2, 2, 0, 0, 2, 2]);
    let x = shapes.op("Pad", &["image", &pads], &[("mode", Attribute::Text("reflect"))]);
    let x = shapes.conv_with(&x, 1, 4, 5, &[]);
    let (group, scales) = (shapes.ints(&[0, 2, -1]), shapes.floats(&[2], &[1.0; 2]));
    let zero = shapes.floats(&[2], &[0.0; 2]);
    let full = shapes.op("Shape", &[&x], &[]);
    let y2 = shapes.op("Reshape", &[&x, &group], &[]);
    let y2 = shapes.op("InstanceNormalization", &[&y2, &scales, &zero], &[]);
    let y2 = shapes.op("Reshape", &[&y2, &full], &[]);
    let ones = shapes.op("ConstantOfShape", &[&full], &[]);
    let y2 = shapes.op("Add", &[&y2, &ones], &[]);
    let y2 = shapes.conv(&y2, 4, 1, 1);
    vec![unet(1, 2), transposed.finish(&y), shapes.finish(&y2)]
}

/// Numbers that make arithmetic go wrong.
const WILD: [i64; 14] = [0, -1, 1, 2, 3, 7, 255, 65_535, 65_536, 1 << 31, 1 << 40, i64::MAX, i64::MIN, -65_536];

/// Changes one thing of the decoded model.
fn mutate(model: &mut pb::ModelProto, numbers: &mut Numbers) {
    const OPS: [&str; 40] = [
        "Conv",
        "ConvTranspose",
        "MaxPool",
        "AveragePool",
        "Resize",
        "Concat",
        "Pad",
        "Slice",
        "DepthToSpace",
        "SpaceToDepth",
        "Transpose",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Gather",
        "Expand",
        "Tile",
        "Shape",
        "ConstantOfShape",
        "Range",
        "Softmax",
        "LayerNormalization",
        "InstanceNormalization",
        "GlobalAveragePool",
        "ReduceMean",
        "MatMul",
        "Gemm",
        "Split",
        "Where",
        "Cast",
        "CumSum",
        "TopK",
        "GridSample",
        "Einsum",
        "If",
        "Loop",
        "LSTM",
        "ScatterND",
        "Identity",
    ];
    let wild = WILD[numbers.below(WILD.len())];
    let choice = numbers.below(16);
    if choice == 0 {
        model.opset_import[0].version = [wild, 7, 9, 10, 11, 12, 13, 18][numbers.below(8)];
        return;
    }
    let graph = model.graph.as_mut().expect("a graph");
    let nodes = graph.node.len();
    let names: Vec<String> = graph.node.iter().flat_map(|n| n.output.iter().chain(&n.input)).cloned().collect();
    let name = names[numbers.below(names.len())].clone();
    let node = &mut graph.node[numbers.below(nodes)];
    let tensors = graph.initializer.len();
    let tensor = &mut graph.initializer[numbers.below(tensors)];
    match choice {
        1 => OPS[numbers.below(OPS.len())].clone_into(&mut node.op_type),
        2 if !node.input.is_empty() => {
            let place = numbers.below(node.input.len());
            node.input[place] = name;
        }
        3 => drop(node.input.pop()),
        4 => node.input.push(name),
        5 => node.output[0] = name,
        6 | 7 if !node.attribute.is_empty() => {
            let place = numbers.below(node.attribute.len());
            let attribute = &mut node.attribute[place];
            attribute.i = wild;
            if !attribute.ints.is_empty() {
                let place = numbers.below(attribute.ints.len());
                attribute.ints[place] = wild;
            }
        }
        8 if !node.attribute.is_empty() => {
            let place = numbers.below(node.attribute.len());
            let attribute = &mut node.attribute[place];
            if numbers.below(2) == 0 {
                attribute.ints.pop();
            } else {
                attribute.r#type = wild as i32;
            }
        }
        9 => {
            let key = ["axis", "group", "strides", "keepdims", "mode", "pads", "axes", "perm", "blocksize"];
            let attribute = pb::AttributeProto {
                name: key[numbers.below(key.len())].into(),
                i: wild,
                ints: vec![wild; numbers.below(5)],
                r#type: [2, 7][numbers.below(2)],
                ..Default::default()
            };
            node.attribute.push(attribute);
        }
        10 if !tensor.dims.is_empty() => {
            let place = numbers.below(tensor.dims.len());
            tensor.dims[place] = wild;
        }
        // Contents of integer tensors: shapes, pads, axes.
        11 | 12 if tensor.raw_data.len() >= 8 => {
            let place = numbers.below(tensor.raw_data.len() / 8) * 8;
            tensor.raw_data[place..place + 8].copy_from_slice(&wild.to_le_bytes());
        }
        13 => tensor.data_type = [wild as i32, 1, 6, 7, 8, 9, 10, 11][numbers.below(8)],
        14 => graph.node.swap(numbers.below(nodes), numbers.below(nodes)),
        _ => {
            let place = numbers.below(nodes);
            let copy = graph.node[place].clone();
            graph.node.push(copy);
        }
    }
}

#[test]
fn mutated_models_neither_panic_nor_hang_nor_take_memory() {
    let _alone = alone();
    let mut numbers = Numbers::new(2024);
    let (mut ran, mut all) = (0, 0);
    for (which, seed) in seeds().iter().enumerate() {
        assert!(survives("the seed itself", seed), "seed {which}: {:?}", try_out(seed).err());
        for round in 0..900 {
            let bytes = if round % 3 == 0 {
                let mut bytes = seed.clone();
                for _ in 0..=numbers.below(4) {
                    let place = numbers.below(bytes.len().max(1));
                    if bytes.len() < 2 {
                        break;
                    }
                    match numbers.below(4) {
                        0 => bytes[place] = numbers.next() as u8,
                        1 => bytes[place] ^= 1 << numbers.below(8),
                        2 => drop(bytes.remove(place)),
                        _ => bytes.truncate(place.max(1)),
                    }
                }
                bytes
            } else {
                let mut model = pb::ModelProto::decode(seed.as_slice()).expect("the seed");
                for _ in 0..=numbers.below(3) {
                    mutate(&mut model, &mut numbers);
                }
                model.encode_to_vec()
            };
            all += 1;
            ran += usize::from(survives(&format!("seed {which}, round {round}"), &bytes));
        }
    }
    // Some changes do no harm; if none or all ran, the test would say nothing.
    assert!(ran > all / 50 && ran < all, "{ran} of {all} ran");
    println!("{ran} of {all} mutated models ran");
}

#[test]
fn bombs() {
    let _alone = alone();
    let mut bombs: Vec<(&str, Vec<u8>)> = vec![];
    let mut add = |what, build: fn(&mut Net) -> String| {
        let mut net = Net::new(2, 1);
        let y = build(&mut net);
        bombs.push((what, net.finish(&y)));
    };
    add("a constant of 2^60 elements", |n| {
        let shape = n.ints(&[1 << 30, 1 << 30]);
        let x = n.op("ConstantOfShape", &[&shape], &[]);
        n.op("Add", &["image", &x], &[])
    });
    add("repeated a million times", |n| {
        let repeats = n.ints(&[1, 1, 1000, 1000]);
        n.op("Tile", &["image", &repeats], &[])
    });
    add("upsampled by 10^6", |n| n.upsample("image", 1e6));
    add("padded by 10^9", |n| {
        let pads = n.ints(&[0, 0, 1 << 30, 1 << 30, 0, 0, 0, 0]);
        n.op("Pad", &["image", &pads], &[])
    });
    add("stride of 2^40", |n| n.conv_with("image", 1, 1, 1, &[("strides", Attribute::Ints(vec![1 << 40; 2]))]));
    add("transposed with stride 60000", |n| {
        let weight = n.weights(&[1, 1, 2, 2]);
        n.op("ConvTranspose", &["image", &weight], &[("strides", Attribute::Ints(vec![60_000; 2]))])
    });
    add("counts to 10^15", |n| {
        let (a, b, c) = (n.ints(&[0]), n.ints(&[1_000_000_000_000_000]), n.ints(&[1]));
        let x = n.op("Range", &[&a, &b, &c], &[]);
        n.op("Add", &["image", &x], &[])
    });
    for (what, bytes) in &bombs {
        assert!(!survives(what, bytes), "{what} ran");
    }
    // Deep, not wide.
    let mut net = Net::new(2, 1);
    let mut x = "image".to_owned();
    for _ in 0..2000 {
        x = net.op("Identity", &[&x], &[]);
    }
    survives("2000 operators in a row", &net.finish(&x));
    // A name of an axis is a formula to tract.
    for name in ["(".repeat(100_000), "a*".repeat(100_000), "1/0".into(), "-".repeat(100_000)] {
        let mut model = pb::ModelProto::decode(mean3().as_slice()).expect("made here");
        let graph = model.graph.as_mut().expect("a graph");
        let mut infos = graph.input.iter_mut().chain(&mut graph.output);
        for info in &mut infos {
            let Some(pb::type_proto::Value::TensorType(tensor)) = info.r#type.as_mut().and_then(|t| t.value.as_mut())
            else {
                continue;
            };
            for dim in &mut tensor.shape.get_or_insert_default().dim {
                dim.value = Some(pb::tensor_shape_proto::dimension::Value::DimParam(name.clone()));
            }
        }
        survives("a wild name of an axis", &model.encode_to_vec());
    }
}

fn memory_cases() -> Vec<(&'static str, Vec<u8>)> {
    let mut pointwise = Net::new(2, 1);
    let x = pointwise.conv("image", 1, 16, 1);
    let x = pointwise.conv(&x, 16, 16, 1);
    let y = pointwise.conv(&x, 16, 1, 1);
    let mut strided = Net::new(2, 1);
    let two = || Attribute::Ints(vec![2, 2]);
    let x = strided.conv_with("image", 1, 8, 4, &[("pads", Attribute::Ints(vec![1; 4])), ("strides", two())]);
    let weight = strided.weights(&[8, 1, 4, 4]);
    let z = strided.op("ConvTranspose", &[&x, &weight], &[("pads", Attribute::Ints(vec![1; 4])), ("strides", two())]);
    let mut upsampled = Net::new(2, 1);
    let x = upsampled.conv("image", 1, 8, 3);
    let x = upsampled.resize(&x, 2.0, &[("mode", Attribute::Text("linear"))]);
    let w = upsampled.conv(&x, 8, 1, 3);
    let mut chain = Net::new(2, 1);
    let mut v = "image".to_owned();
    for (from, to) in [(1, 16), (16, 16), (16, 16), (16, 1)] {
        let conv = chain.conv(&v, from, to, 3);
        v = chain.op("Relu", &[&conv], &[]);
    }
    vec![
        ("U-Net", unet(2, 8)),
        ("mean", mean3()),
        ("norm", instance_norm()),
        ("1x1", pointwise.finish(&y)),
        ("strided", strided.finish(&z)),
        ("linear", upsampled.finish(&w)),
        ("chain", chain.finish(&v)),
    ]
}

#[test]
fn memory_is_what_is_said() {
    let _alone = alone();
    let mut wrong = vec![];
    for (what, bytes) in memory_cases() {
        let network = Network::from_onnx(what, &bytes).expect(what);
        for side in [128, 256, 512] {
            let tile = [1, side, side];
            let image = noise(1, side * side);
            network.run(&image, tile).expect(what);
            // What runs keep for the next one counts as well.
            network.release(0);
            let (peak, _) = peak_of(|| network.run(&image, tile));
            let said = network.memory_bytes(tile, RunOptions::default()) as f64;
            let ratio = said / peak as f64;
            println!("{what}, side {side}: said {said}, took {peak}, ratio {ratio:.2}");
            if !(0.9..2.0).contains(&ratio) {
                wrong.push(format!("{what}, side {side}: said {said}, took {peak}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn one_tile_after_another_needs_no_new_memory() {
    let _alone = alone();
    let network = Network::from_onnx("U-Net", &unet(2, 8)).expect("a good network");
    let (image, tile) = (noise(7, 96 * 160), [1, 96, 160]);
    let mut output = vec![];
    let watch = Watch::default();
    let mut run = || network.run_into(&image, tile, &mut output, RunOptions::default(), &watch).expect("runs");
    run();
    // Where other tests begin and end, their harness allocates, too, but not every time.
    let peak = (0..5).map(|_| peak_of(|| (0..3).for_each(|_| run())).0).min();
    assert_eq!(peak, Some(0), "bytes above those of the first tile");
    assert_eq!(output, network.run(&image, tile).expect("runs"), "another result the second time");
}

/// Who restores many small images gets their memory once; who restores a large one gets it back.
#[test]
fn the_next_image_finds_memory_where_it_is_small() {
    let _alone = alone();
    let network = Network::from_onnx("U-Net", &unet(2, 8)).expect("a good network");
    let run = |side: usize, keep| {
        let image = noise(7, side * side);
        let (peak, ran) = peak_of(|| network.run(&image, [1, side, side]).map(|_| network.release(keep)));
        ran.expect("runs");
        peak
    };
    let first = run(256, u64::MAX);
    assert!(run(256, 1000) < first / 2, "a second run took memory anew");
    assert!(run(256, u64::MAX) > first / 2, "more was kept than there should be");
    // A smaller image gets less.
    run(32, u64::MAX);
    assert!(run(256, u64::MAX) > first / 2, "a small image kept the memory of a large one");
}

#[test]
fn threads_share_a_network() {
    let _alone = alone();
    let network = Network::from_onnx("U-Net", &unet(1, 4)).expect("a good network");
    let image = noise(7, 64 * 64);
    let alone = network.run(&image, [1, 64, 64]).expect("runs");
    std::thread::scope(|scope| {
        let run = || network.run(&image, [1, 64, 64]).expect("runs");
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        for thread in threads {
            assert_eq!(thread.join().expect("no panic"), alone);
        }
    });
}

/// One tile after another of the same size needs no memory: not for the result, not for what lies between.
#[test]
fn a_tile_allocates_nothing_after_the_first() {
    let _alone = alone();
    let built_in = mdr::models::builtin(mdr::Task::Denoise).expect("a built-in model");
    for (name, bytes) in [("built-in", built_in), ("unet", &unet(2, 12)[..])] {
        let network = Network::from_onnx(name, bytes).expect("a good model");
        let tile = vec![0.5; 96 * 80];
        let mut output = Vec::new();
        let mut calls = || {
            let before = CALLS.get();
            network.run_into(&tile, [1, 96, 80], &mut output, RunOptions::default(), &Watch::default()).expect("a run");
            CALLS.get() - before
        };
        assert!(calls() > 0, "{name}: the counter counts");
        assert_eq!((calls(), calls()), (0, 0), "{name}");
    }
}
