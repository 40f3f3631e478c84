//! The convolutions that mdr puts in place of tract's, against tract's own plan of the same file: whole networks, with
//! and without a hot pixel, one tile at a time. The kernels alone are tested beside their code, against a
//! sum over single samples.

use crate::common::{Attribute, Net, beads, max_difference, mean3, noise, unet, unet_with, unet_with_kernel};
use mdr::network::{Network, RunOptions, Watch};
use tract_onnx::prelude::*;

/// What tract alone makes of it.
fn by_tract(bytes: &[u8], input: &[f32], shape: &[usize]) -> Vec<f32> {
    let run = || {
        let fact = InferenceFact::dt_shape(f32::datum_type(), shape);
        let model = tract_onnx::onnx().with_ignore_output_shapes(true).model_for_read(&mut &*bytes)?;
        let plan = model.with_input_fact(0, fact)?.into_optimized()?.into_runnable()?;
        let outputs = plan.run(tvec!(Tensor::from_shape(shape, input)?.into_tvalue()))?;
        TractResult::Ok(outputs[0].try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
    };
    run().expect("tract runs the network")
}

/// Of an image of Y, X or a stack of Z, Y, X pixels.
#[track_caller]
fn assert_as_tract(what: &str, bytes: &[u8], input: &[f32], sides: &[usize]) {
    let channels = input.len() / sides.iter().product::<usize>();
    let tile = <[usize; 3]>::try_from(sides).unwrap_or_else(|_| [1, sides[0], sides[1]]);
    let network = Network::from_onnx(what, bytes).expect(what);
    let found = network.run(input, tile).expect(what);
    let expected = by_tract(bytes, input, &[&[1, channels], sides].concat());
    let (low, high) = expected.iter().fold((f32::MAX, f32::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    let difference = max_difference(&found, &expected);
    println!("{what}, {sides:?}: {:.1e} of the range", difference / (high - low));
    assert!(difference <= 1e-5 * (high - low), "{what}, {sides:?}: {difference} of {}", high - low);
    assert_eq!(network.run(input, tile).expect(what), found, "{what}: another result the second time");
    let options = RunOptions { threads: 3, ..RunOptions::default() };
    let mut by_three = vec![];
    network.run_into(input, tile, &mut by_three, options, &Watch::default()).expect(what);
    assert_eq!(by_three, found, "{what}: another result by three threads");
}

#[test]
fn built_in_model() {
    let bytes = mdr::models::builtin(mdr::Task::Denoise).expect("a built-in model");
    for [rows, columns] in [[64, 64], [136, 200]] {
        // Beads on a background, as the normalisation hands them over.
        let mut image: Vec<f32> = beads(rows, columns, 3).iter().map(|sample| (sample - 100.0) / 900.0).collect();
        assert_as_tract("built-in", bytes, &image, &[rows, columns]);
        image[rows / 2 * columns + columns / 3] = 200.0;
        assert_as_tract("built-in, hot pixel", bytes, &image, &[rows, columns]);
    }
}

#[test]
fn u_nets() {
    for (depth, features) in [(1, 3), (2, 8), (2, 32)] {
        let image = noise(1, 48 * 80);
        assert_as_tract(&format!("U-Net {depth}, {features}"), &unet(depth, features), &image, &[48, 80]);
    }
    let mut image = noise(1, 48 * 80);
    image[2000] = 200.0;
    assert_as_tract("U-Net of 5 by 5", &unet_with_kernel(Net::new(2, 1), 2, 8, 5), &image, &[48, 80]);
    assert_as_tract("mean", &mean3(), &noise(2, 35), &[7, 5]);
    assert_as_tract("mean of one pixel", &mean3(), &[3.0, -1.0], &[1, 2]);
}

/// More than 16 MB of transformed weights: runs of tiles in several rows, and then tensors of more rows.
#[test]
fn weights_that_no_cache_keeps() {
    let mut net = Net::new(2, 1);
    let mut x = net.conv("image", 1, 128, 3);
    for _ in 0..4 {
        let y = net.conv(&x, 128, 128, 3);
        let y = net.op("Relu", &[&y], &[]);
        let y = net.conv(&y, 128, 128, 3);
        x = net.op("Add", &[&x, &y], &[]);
    }
    let y = net.conv(&x, 128, 1, 3);
    let bytes = net.finish(&y);
    for sides in [[45, 30], [21, 150], [70, 9]] {
        assert_as_tract("weights that no cache keeps", &bytes, &noise(1, sides[0] * sides[1]), &sides);
    }
}

/// What runs keep for the next one is laid out anew where the size changes: its zeros lie elsewhere then.
#[test]
fn a_size_leaves_nothing_to_the_next() {
    let bytes = unet(2, 4);
    let network = Network::from_onnx("U-Net", &bytes).expect("a network");
    for [rows, columns] in [[160, 96], [96, 160], [160, 96], [48, 320], [64, 64]] {
        let image = noise(rows as u64, rows * columns);
        let fresh = Network::from_onnx("U-Net", &bytes).expect("a network");
        let run = |network: &Network| network.run(&image, [1, rows, columns]).expect("a result");
        assert_eq!(run(&network), run(&fresh), "{rows} by {columns}");
    }
}

/// Kinds that are done by mdr beside kinds that are left to tract, all with a rectifier behind.
#[test]
fn every_kind_of_convolution() {
    let ints = |values: &[i64]| Attribute::Ints(values.to_vec());
    type Attributes = Vec<(&'static str, Attribute)>;
    let kinds: [(&str, usize, Attributes); 8] = [
        ("1x1", 1, vec![]),
        ("padded 1x1, then unpadded", 1, vec![("pads", ints(&[0, 2, 2, 0]))]),
        ("5x5", 5, vec![("pads", ints(&[2, 2, 2, 2]))]),
        ("uneven", 4, vec![("pads", ints(&[1, 2, 2, 1]))]),
        ("same", 3, vec![("auto_pad", Attribute::Text("SAME_UPPER"))]),
        ("same, from below", 4, vec![("auto_pad", Attribute::Text("SAME_LOWER"))]),
        ("strided", 4, vec![("pads", ints(&[1, 1, 1, 1])), ("strides", ints(&[2, 2]))]),
        ("dilated", 3, vec![("pads", ints(&[2, 2, 2, 2])), ("dilations", ints(&[2, 2]))]),
    ];
    for (what, kernel, with) in kinds {
        let mut net = Net::new(2, 5);
        let x = net.conv_with("image", 5, 11, kernel, &with);
        let x = net.op("Relu", &[&x], &[]);
        let x = match what {
            "padded 1x1, then unpadded" => net.conv_with(&x, 11, 7, 3, &[]),
            "strided" => net.upsample(&x, 2.0),
            _ => x,
        };
        assert_as_tract(what, &net.finish(&x), &noise(3, 5 * 32 * 46), &[32, 46]);
    }
    // Convolutions of enlarged images, as U-Nets go up.
    for kernel in [2, 3, 4, 5] {
        let mut net = Net::new(2, 7);
        let x = net.upsample("image", 2.0);
        let x = net.conv_with(&x, 7, 9, kernel, &[("auto_pad", Attribute::Text("SAME_UPPER"))]);
        assert_as_tract(&format!("{kernel} by {kernel}, enlarged"), &net.finish(&x), &noise(5, 7 * 16 * 23), &[16, 23]);
    }
    // Windows of 2 by 2 that are pooled by mdr, beside others.
    let pools: [(&str, Attributes); 3] =
        [("halved", vec![]), ("padded pool", vec![("pads", ints(&[1, 1, 1, 1]))]), ("average", vec![])];
    for (what, mut with) in pools {
        with.extend([("kernel_shape", ints(&[2, 2])), ("strides", ints(&[2, 2]))]);
        let mut net = Net::new(2, 3);
        let x = net.op(if what == "average" { "AveragePool" } else { "MaxPool" }, &["image"], &with);
        let x = if what == "padded pool" { net.conv_with(&x, 3, 3, 2, &[]) } else { x };
        let x = net.upsample(&x, 2.0);
        assert_as_tract(what, &net.finish(&x), &noise(5, 3 * 20 * 34), &[20, 34]);
    }
    // A rectifier that is not the only one to use the convolution.
    let mut net = Net::new(2, 2);
    let x = net.conv("image", 2, 9, 3);
    let y = net.op("Relu", &[&x], &[]);
    let sum = net.op("Add", &[&x, &y], &[]);
    assert_as_tract("used twice", &net.finish(&sum), &noise(4, 2 * 20 * 20), &[20, 20]);
}

/// Sums with convolutions, which these make where nobody else sees the convolution alone.
#[test]
fn sums() {
    type Block = fn(&mut Net, &str) -> String;
    let blocks: [(&str, Block); 7] = [
        ("residual block", |net, x| {
            let y = net.conv(x, 6, 6, 3);
            let y = net.op("Relu", &[&y], &[]);
            let y = net.conv(&y, 6, 6, 3);
            let sum = net.op("Add", &[x, &y], &[]);
            net.op("Relu", &[&sum], &[])
        }),
        ("behind borders that are reflected", |net, x| {
            let pads = net.ints(&[0, 0, 1, 1, 0, 0, 1, 1]);
            let y = net.op("Pad", &[x, &pads], &[("mode", Attribute::Text("reflect"))]);
            let y = net.conv_with(&y, 6, 6, 3, &[]);
            net.op("Add", &[&y, x], &[])
        }),
        ("two convolutions", |net, x| {
            let [y, z] = [3, 5].map(|kernel| net.conv(x, 6, 6, kernel));
            net.op("Add", &[&y, &z], &[])
        }),
        ("of four", |net, x| {
            let [y, z] = [3, 3].map(|kernel| net.conv(x, 6, 6, kernel));
            let sum = net.op("Add", &[x, &y], &[]);
            let sum = net.op("Add", &[&sum, &z], &[]);
            net.op("Add", &[&sum, x], &[])
        }),
        ("a convolution that is used again", |net, x| {
            let y = net.conv(x, 6, 6, 3);
            let sum = net.op("Add", &[&y, x], &[]);
            let sum = net.op("Relu", &[&sum], &[]);
            net.op("Add", &[&sum, &y], &[])
        }),
        ("twice the same", |net, x| {
            let y = net.conv(x, 6, 6, 3);
            net.op("Add", &[&y, &y], &[])
        }),
        ("with what is enlarged", |net, x| {
            let with = [("kernel_shape", Attribute::Ints(vec![2; 2])), ("strides", Attribute::Ints(vec![2; 2]))];
            let y = net.op("MaxPool", &[x], &with);
            let y = net.upsample(&y, 2.0);
            let z = net.conv(x, 6, 6, 3);
            net.op("Add", &[&z, &y], &[])
        }),
    ];
    for (what, block) in blocks {
        let mut net = Net::new(2, 6);
        let x = net.conv("image", 6, 6, 3);
        let x = block(&mut net, &x);
        let x = net.conv(&x, 6, 5, 3);
        assert_as_tract(what, &net.finish(&x), &noise(5, 6 * 26 * 38), &[26, 38]);
    }
    let mut net = Net::new(3, 6);
    let x = net.conv("image", 6, 6, 3);
    let x = net.op("Add", &[&x, "image"], &[]);
    assert_as_tract("of stacks", &net.finish(&x), &noise(5, 6 * 4 * 10 * 12), &[4, 10, 12]);
}

/// Stacks, which are taken plane by plane.
#[test]
fn kinds_of_three_axes() {
    let mut stack = noise(6, 12 * 20 * 24);
    stack[3000] = 200.0;
    for features in [3, 8] {
        let what = format!("U-Net of stacks, {features}");
        assert_as_tract(&what, &unet_with(Net::new(3, 1), 2, features), &stack, &[12, 20, 24]);
    }
    assert_as_tract("one plane", &unet_with(Net::new(3, 1), 0, 8), &stack[..480], &[1, 20, 24]);
    let ints = |values: &[i64]| Attribute::Ints(values.to_vec());
    type Attributes = Vec<(&'static str, Attribute)>;
    let kinds: [(&str, usize, Attributes); 6] = [
        ("1x1x1", 1, vec![]),
        ("reflected", 4, vec![]),
        ("uneven", 4, vec![("pads", ints(&[0, 1, 2, 3, 2, 1]))]),
        ("strided", 4, vec![("pads", ints(&[1; 6])), ("strides", ints(&[2, 2, 2]))]),
        ("strided along Z", 3, vec![("pads", ints(&[1; 6])), ("strides", ints(&[2, 1, 1]))]),
        ("dilated", 3, vec![("pads", ints(&[2; 6])), ("dilations", ints(&[2, 2, 2]))]),
    ];
    for (what, kernel, with) in kinds {
        let mut net = Net::new(3, 5);
        let pads = net.ints(&[0, 0, 1, 2, 0, 0, 0, 2, 1, 3]);
        let x = match what {
            "reflected" => net.op("Pad", &["image", &pads], &[("mode", Attribute::Text("reflect"))]),
            _ => "image".to_owned(),
        };
        let x = net.conv_with(&x, 5, 11, kernel, &with);
        let x = net.op("LeakyRelu", &[&x], &[("alpha", Attribute::Float(0.1))]);
        // Enlarged planes stand for two each, which an activation must not meet twice.
        let x = net.upsample(&x, 2.0);
        let x = net.op("LeakyRelu", &[&x], &[("alpha", Attribute::Float(0.1))]);
        let x = net.conv(&x, 11, 6, 3);
        assert_as_tract(what, &net.finish(&x), &noise(7, 5 * 6 * 10 * 12), &[6, 10, 12]);
    }
    // The first and the last planes see zeros alone.
    let mut net = Net::new(3, 5);
    let x = net.conv_with("image", 5, 7, 2, &[("pads", ints(&[3; 6]))]);
    let x = net.conv_with(&x, 7, 6, 6, &[]);
    assert_as_tract("nothing but border", &net.finish(&x), &noise(7, 5 * 6 * 10 * 12), &[6, 10, 12]);
    for (what, kernel) in [("pooled", [2, 2, 2]), ("pooled in planes", [1, 2, 2]), ("pooled along Z", [2, 1, 1])] {
        for channels in [2, 7] {
            let mut net = Net::new(3, channels);
            let with = [("kernel_shape", ints(&kernel)), ("strides", ints(&kernel))];
            let x = net.op("MaxPool", &["image"], &with);
            let x = net.conv(&x, channels, channels, 3);
            // What follows the pooling alone scales the image.
            let scales = net.floats(&[5], &[1.0, 1.0, kernel[0] as f32, kernel[1] as f32, kernel[2] as f32]);
            let how = [
                ("mode", Attribute::Text("nearest")),
                ("coordinate_transformation_mode", Attribute::Text("asymmetric")),
                ("nearest_mode", Attribute::Text("floor")),
            ];
            let x = net.op("Resize", &[&x, "", &scales], &how);
            assert_as_tract(what, &net.finish(&x), &noise(8, channels * 6 * 10 * 12), &[6, 10, 12]);
        }
    }
}

/// Of every stride and padding that exported networks have.
#[test]
fn transposed_convolutions() {
    let ints = |values: &[i64]| Attribute::Ints(values.to_vec());
    for (kernel, pad, more) in [(2, 0, 0), (3, 1, 1), (4, 1, 0), (5, 2, 1), (6, 2, 0)] {
        // A few outputs are summed up in another way than many; the rows are longer than what is done at once.
        for (outputs, activation, size) in [(9, "Relu", [14, 22]), (1, "Tanh", [5, 75]), (3, "Sigmoid", [6, 69])] {
            let mut net = Net::new(2, 6);
            let weight = net.weights(&[6, outputs, kernel, kernel]);
            let bias = net.floats(&[outputs], &vec![0.1; outputs]);
            let with = [("strides", ints(&[2, 2])), ("pads", ints(&[pad; 4])), ("output_padding", ints(&[more; 2]))];
            let x = net.op("ConvTranspose", &["image", &weight, &bias], &with);
            let x = net.op(activation, &[&x], &[]);
            let name = format!("transposed {kernel} to {outputs}");
            assert_as_tract(&name, &net.finish(&x), &noise(9, 6 * size[0] * size[1]), &size);
        }
    }
}
