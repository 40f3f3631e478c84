//! The receptive field that is read off a graph, against the field that is measured: one pixel of the input is
//! changed and the pixels of the output that change are listed. Measured on random networks of every operator that
//! counts as local.

use crate::common::*;
use mdr::network::Network;

/// A pixel can change the rounding of others that are computed together with it, beyond its field: by some ten-
/// millionths of its own change, which is 10. What changes by less than this is rounding.
const ROUNDING: f32 = 1e-5;

/// Distance of the farthest changed output pixel from the changed input pixel, over all phases of the strides.
/// ReLUs and max-pools hide some of the paths, so several inputs are tried.
fn measured(net: &Network, side: usize, rounds: u64) -> [usize; 2] {
    let scale = net.field().scale[2];
    let mut reach = [0; 2];
    for round in 0..rounds {
        let mut image = noise(round, side * side);
        let before = net.run(&image, [1, side, side]).expect("runs");
        let multiple = net.field().multiple[2].max(1);
        for phase in 0..multiple {
            let at = side / 2 / multiple * multiple + phase;
            let place = at * side + at;
            let old = image[place];
            image[place] += 10.0 - 20.0 * (round % 2) as f32;
            let after = net.run(&image, [1, side, side]).expect("runs");
            image[place] = old;
            for (i, _) in before.iter().zip(&after).enumerate().filter(|(_, (a, b))| (*a - *b).abs() > ROUNDING) {
                let (row, column) = (i / (side * scale) / scale, i % (side * scale) / scale);
                reach[0] = reach[0].max(row.abs_diff(at));
                reach[1] = reach[1].max(column.abs_diff(at));
            }
        }
    }
    reach
}

fn check(what: &str, bytes: &[u8], side: usize, slack: usize) {
    let net = Network::from_onnx(what, bytes).expect(what);
    let field = net.field().clone();
    let halo = field.halo.unwrap_or_else(|| panic!("{what}: {:?}", field.reason));
    let found = measured(&net, side, 4);
    for (axis, found) in [(1, found[0]), (2, found[1])] {
        assert!(found <= halo[axis], "{what}: reaches {found} pixels, derived {halo:?}");
        assert!(halo[axis] <= found + slack, "{what}: reaches only {found} pixels, derived {halo:?}");
    }
    shift(what, &net, side);
}

/// An image shifted by the multiple gives the shifted result, away from the borders.
fn shift(what: &str, net: &Network, side: usize) {
    let field = net.field();
    let (multiple, scale) = (field.multiple[2], field.scale[2]);
    let halo = field.halo.expect("local")[2];
    let wide = side + multiple;
    let image = noise(99, wide * wide);
    let part = |start: usize| -> Vec<f32> {
        (0..side).flat_map(|row| image[(row + start) * wide + start..][..side].iter().copied()).collect()
    };
    let a = net.run(&part(0), [1, side, side]).expect("runs");
    let b = net.run(&part(multiple), [1, side, side]).expect("runs");
    let width = side * scale;
    let (first, last) = ((halo + multiple) * scale, (side - halo) * scale);
    assert!(first < last, "{what}: too small an image for halo {halo}");
    for row in first..last {
        for column in first..last {
            let moved = b[(row - multiple * scale) * width + column - multiple * scale];
            let difference = (a[row * width + column] - moved).abs();
            assert!(
                difference < 1e-5,
                "{what}: row {row}, column {column} differs by {difference} after a shift by {multiple}"
            );
        }
    }
}

fn ints(values: &[i64]) -> Attribute {
    Attribute::Ints(values.to_vec())
}

#[test]
fn each_operator() {
    type Build = fn(&mut Net) -> String;
    let cases: &[(&str, usize, Build)] = &[
        ("7x7", 0, |n| n.conv("image", 1, 1, 7)),
        ("dilated", 0, |n| n.conv_with("image", 1, 1, 3, &[("pads", ints(&[4; 4])), ("dilations", ints(&[4, 4]))])),
        ("one-sided pads", 0, |n| n.conv_with("image", 1, 1, 5, &[("pads", ints(&[4, 4, 0, 0]))])),
        ("auto_pad", 0, |n| n.conv_with("image", 1, 1, 4, &[("auto_pad", Attribute::Text("SAME_UPPER"))])),
        ("strided, transposed", 2, |n| {
            let x = n.conv_with("image", 1, 4, 4, &[("pads", ints(&[1; 4])), ("strides", ints(&[2, 2]))]);
            let weight = n.weights(&[4, 1, 4, 4]);
            n.op("ConvTranspose", &[&x, &weight], &[("pads", ints(&[1; 4])), ("strides", ints(&[2, 2]))])
        }),
        ("transposed 2x2", 0, |n| {
            let weight = n.weights(&[1, 1, 2, 2]);
            n.op("ConvTranspose", &["image", &weight], &[("strides", ints(&[2, 2]))])
        }),
        ("transposed 3x3 with output padding", 0, |n| {
            let weight = n.weights(&[1, 1, 3, 3]);
            let with = [("strides", ints(&[2, 2])), ("pads", ints(&[1; 4])), ("output_padding", ints(&[1, 1]))];
            n.op("ConvTranspose", &["image", &weight], &with)
        }),
        ("max-pool and nearest", 1, |n| {
            let x = n.pool("image");
            n.upsample(&x, 2.0)
        }),
        ("average pool", 0, |n| {
            let with =
                [("kernel_shape", ints(&[3, 3])), ("pads", ints(&[1; 4])), ("count_include_pad", Attribute::Int(1))];
            n.op("AveragePool", &["image"], &with)
        }),
        ("pool by 4 and back", 3, |n| {
            let with = [("kernel_shape", ints(&[4, 4])), ("strides", ints(&[4, 4]))];
            let x = n.op("AveragePool", &["image"], &with);
            n.upsample(&x, 4.0)
        }),
        ("linear x2", 1, |n| n.resize("image", 2.0, &[("mode", Attribute::Text("linear"))])),
        ("cubic x2", 1, |n| n.resize("image", 2.0, &[("mode", Attribute::Text("cubic"))])),
        ("linear x3", 1, |n| n.resize("image", 3.0, &[("mode", Attribute::Text("linear"))])),
        ("half and linear back", 2, |n| {
            let x = n.pool("image");
            n.resize(&x, 2.0, &[("mode", Attribute::Text("linear"))])
        }),
        ("linear down, nearest up", 2, |n| {
            let x = n.resize("image", 0.5, &[("mode", Attribute::Text("linear"))]);
            n.upsample(&x, 2.0)
        }),
        ("pixel shuffle", 0, |n| {
            let x = n.conv("image", 1, 4, 3);
            n.op("DepthToSpace", &[&x], &[("blocksize", Attribute::Int(2))])
        }),
        ("space to depth and back", 1, |n| {
            let x = n.op("SpaceToDepth", &["image"], &[("blocksize", Attribute::Int(2))]);
            let x = n.conv(&x, 4, 4, 1);
            n.op("DepthToSpace", &[&x], &[("blocksize", Attribute::Int(2))])
        }),
        ("reflect pad and crop", 0, |n| {
            let pads = n.ints(&[0, 0, 3, 3, 0, 0, 3, 3]);
            let x = n.op("Pad", &["image", &pads], &[("mode", Attribute::Text("reflect"))]);
            let x = n.conv_with(&x, 1, 1, 5, &[]);
            let (starts, ends, axes) = (n.ints(&[1, 1]), n.ints(&[-1, -1]), n.ints(&[2, 3]));
            n.op("Slice", &[&x, &starts, &ends, &axes], &[])
        }),
        // As torch spells reflect padding: half of the pads computed, in reversed order.
        ("pads from a shape computation", 0, |n| {
            let (given, more) = (n.ints(&[2, 2, 2, 2]), n.ints(&[4]));
            let zeros = n.op("ConstantOfShape", &[&more], &[]);
            let zeros = n.op("Cast", &[&zeros], &[("to", Attribute::Int(7))]);
            let pads = n.op("Concat", &[&given, &zeros], &[("axis", Attribute::Int(0))]);
            let pairs = n.ints(&[-1, 2]);
            let pads = n.op("Reshape", &[&pads, &pairs], &[]);
            let (start, end, axis, step) = (n.ints(&[-1]), n.ints(&[i64::MIN]), n.ints(&[0]), n.ints(&[-1]));
            let pads = n.op("Slice", &[&pads, &start, &end, &axis, &step], &[]);
            let pads = n.op("Transpose", &[&pads], &[("perm", ints(&[1, 0]))]);
            let flat = n.ints(&[-1]);
            let pads = n.op("Reshape", &[&pads, &flat], &[]);
            let x = n.op("Pad", &["image", &pads], &[("mode", Attribute::Text("reflect"))]);
            n.conv_with(&x, 1, 1, 5, &[])
        }),
        ("attention over channels", 0, |n| {
            let x = n.conv("image", 1, 4, 3);
            let y = n.op("Softmax", &[&x], &[("axis", Attribute::Int(1))]);
            let x = n.op("Mul", &[&x, &y], &[]);
            let axes = [("axes", ints(&[1])), ("keepdims", Attribute::Int(1))];
            n.op("ReduceMean", &[&x], &axes)
        }),
        ("channels last and dense", 0, |n| {
            let x = n.conv("image", 1, 4, 3);
            let x = n.op("Transpose", &[&x], &[("perm", ints(&[0, 2, 3, 1]))]);
            let weight = n.weights(&[4, 1]);
            let x = n.op("MatMul", &[&x, &weight], &[]);
            n.op("Transpose", &[&x], &[("perm", ints(&[0, 3, 1, 2]))])
        }),
    ];
    for (what, slack, build) in cases {
        let mut net = Net::new(2, 1);
        let y = build(&mut net);
        check(what, &net.finish(&y), 48, *slack);
    }
}

#[test]
fn unets() {
    check("depth 1", &unet(1, 4), 64, 5);
    check("depth 2", &unet(2, 4), 144, 12);
}

#[test]
fn random_networks() {
    for seed in 0..24 {
        let mut numbers = Numbers::new(seed);
        let mut net = Net::new(2, 1);
        let mut x = net.conv("image", 1, 3, 3);
        let mut pooled = 0;
        let mut what = format!("network {seed}: conv 3");
        for _ in 0..4 {
            match numbers.below(5) {
                0 => {
                    let kernel = [1, 3, 5][numbers.below(3)];
                    what += &format!(", conv {kernel}");
                    x = net.conv(&x, 3, 3, kernel);
                }
                1 if pooled < 2 => {
                    what += ", average pool";
                    let with = [("kernel_shape", ints(&[2, 2])), ("strides", ints(&[2, 2]))];
                    x = net.op("AveragePool", &[&x], &with);
                    pooled += 1;
                }
                2 if pooled > 0 => {
                    what += ", linear";
                    x = net.resize(&x, 2.0, &[("mode", Attribute::Text("linear"))]);
                    pooled -= 1;
                }
                3 => {
                    let dilation = 1 + numbers.below(3) as i64;
                    what += &format!(", dilated by {dilation}");
                    let with = [("pads", ints(&[dilation; 4])), ("dilations", ints(&[dilation; 2]))];
                    x = net.conv_with(&x, 3, 3, 3, &with);
                }
                _ => {
                    what += ", tanh";
                    x = net.op("Tanh", &[&x], &[]);
                }
            }
        }
        for _ in 0..pooled {
            what += ", nearest";
            x = net.upsample(&x, 2.0);
        }
        let y = net.conv(&x, 3, 1, 1);
        check(&what, &net.finish(&y), 96, 7);
    }
}

#[test]
fn what_is_not_local() {
    type Build = fn(&mut Net) -> String;
    let cases: &[(&str, Build)] = &[
        ("GlobalAveragePool", |n| {
            let x = n.op("GlobalAveragePool", &["image"], &[]);
            n.op("Mul", &["image", &x], &[])
        }),
        ("ReduceMax", |n| {
            let x = n.op("ReduceMax", &["image"], &[("axes", ints(&[2, 3]))]);
            n.op("Div", &["image", &x], &[])
        }),
        ("Softmax", |n| n.op("Softmax", &["image"], &[("axis", Attribute::Int(-1))])),
        ("InstanceNormalization", |n| {
            let shape = n.ints(&[1, 2, -1]);
            let x = n.conv("image", 1, 4, 3);
            let y = n.op("Reshape", &[&x, &shape], &[]);
            let (one, zero) = (n.floats(&[2], &[1.0; 2]), n.floats(&[2], &[0.0; 2]));
            let y = n.op("InstanceNormalization", &[&y, &one, &zero], &[]);
            let full = n.op("Shape", &[&x], &[]);
            let y = n.op("Reshape", &[&y, &full], &[]);
            n.conv(&y, 4, 1, 3)
        }),
        ("Resize", |n| {
            let with = [
                ("mode", Attribute::Text("linear")),
                ("coordinate_transformation_mode", Attribute::Text("align_corners")),
            ];
            n.resize("image", 2.0, &with)
        }),
        ("Slice", |n| {
            let (starts, ends, axes, steps) = (n.ints(&[-1]), n.ints(&[i64::MIN]), n.ints(&[3]), n.ints(&[-1]));
            n.op("Slice", &["image", &starts, &ends, &axes, &steps], &[])
        }),
        ("CumSum", |n| {
            let axis = n.ints(&[2]);
            n.op("CumSum", &["image", &axis], &[])
        }),
    ];
    for (operator, build) in cases {
        let mut net = Net::new(2, 1);
        let y = build(&mut net);
        let net = Network::from_onnx(operator, &net.finish(&y)).expect(operator);
        assert_eq!(net.field().halo, None, "{operator}");
        let reason = net.field().reason.clone().unwrap_or_default();
        assert!(reason.contains(operator), "{operator}: {reason}");
    }
}

#[test]
fn strides_of_an_untileable_network_are_kept() {
    let mut net = Net::new(2, 1);
    let x = net.conv("image", 1, 2, 3);
    let (one, zero) = (net.floats(&[2], &[1.0; 2]), net.floats(&[2], &[0.0; 2]));
    let x = net.op("InstanceNormalization", &[&x, &one, &zero], &[]);
    let x = net.pool(&x);
    let x = net.pool(&x);
    let x = net.upsample(&x, 4.0);
    let y = net.conv(&x, 2, 1, 1);
    let net = Network::from_onnx("norm", &net.finish(&y)).unwrap();
    assert_eq!((net.field().halo, net.field().multiple), (None, [1, 4, 4]));
}
