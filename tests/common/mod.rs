//! What the tests share: tiny ONNX networks, written with the schema that tract exposes, and synthetic images. All
//! numbers are made here, from seeds, so that nothing need be stored.
#![allow(dead_code)]

pub mod contract;
pub mod tools;

use prost::Message;
use std::collections::BTreeMap;
use tract_onnx::pb;

/// A small, repeatable stream of numbers (SplitMix64).
#[derive(Clone)]
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// In 0..1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// In −1..1.
    pub fn signed(&mut self) -> f32 {
        2.0 * self.unit() - 1.0
    }
}

/// Values in −1..1.
pub fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut numbers = Numbers::new(seed);
    (0..n).map(|_| numbers.signed()).collect()
}

/// Round spots of different widths and brightness on a dark background, `y` rows of `x` samples.
pub fn beads(y: usize, x: usize, seed: u64) -> Vec<f32> {
    let mut numbers = Numbers::new(seed);
    let mut image = vec![100.0; y * x];
    for _ in 0..(y * x / 400).max(3) {
        let (cy, cx) = (numbers.unit() * y as f32, numbers.unit() * x as f32);
        let (sigma, height) = (1.0 + 2.0 * numbers.unit(), 50.0 + 900.0 * numbers.unit());
        let reach = (4.0 * sigma).ceil();
        for row in (cy - reach).max(0.0) as usize..((cy + reach) as usize + 1).min(y) {
            for column in (cx - reach).max(0.0) as usize..((cx + reach) as usize + 1).min(x) {
                let distance = (row as f32 - cy).powi(2) + (column as f32 - cx).powi(2);
                image[row * x + column] += height * (-distance / (2.0 * sigma * sigma)).exp();
            }
        }
    }
    image
}

/// Rises from 0 to 1 along both axes.
pub fn gradient(y: usize, x: usize) -> Vec<f32> {
    let at = |i: usize| (i / x) as f32 / y.max(2) as f32 + (i % x) as f32 / x.max(2) as f32;
    (0..y * x).map(|i| at(i) / 2.0).collect()
}

/// Siemens star: ever finer detail towards the middle, values 0 and 1.
pub fn star(y: usize, x: usize, spokes: usize) -> Vec<f32> {
    let at = |i: usize| {
        let (dy, dx) = ((i / x) as f32 - y as f32 / 2.0, (i % x) as f32 - x as f32 / 2.0);
        f32::from(u8::from((dy.atan2(dx) * spokes as f32).sin() > 0.0))
    };
    (0..y * x).map(at).collect()
}

/// Largest difference of two images.
pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "images of different size");
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// An ONNX graph under construction. Every operator returns the name of its result.
#[derive(Clone)]
pub struct Net {
    pub model: pb::ModelProto,
    names: usize,
    numbers: Numbers,
    spatial: usize,
}

/// The names of the free axes of an image.
const AXES: [&str; 3] = ["z", "y", "x"];

impl Net {
    /// A network for 2 or 3 spatial axes, with one input of this many channels, called `image`.
    pub fn new(spatial: usize, channels: usize) -> Self {
        Self::with_input(&[None, Some(channels)].into_iter().chain(vec![None; spatial]).collect::<Vec<_>>())
    }

    /// A network whose input has these lengths, `None` for a free one.
    pub fn with_input(dims: &[Option<usize>]) -> Self {
        let opset = pb::OperatorSetIdProto { domain: String::new(), version: 17 };
        let graph = pb::GraphProto { name: "net".into(), ..Default::default() };
        let model =
            pb::ModelProto { ir_version: 8, opset_import: vec![opset], graph: Some(graph), ..Default::default() };
        let mut net = Self { model, names: 0, numbers: Numbers::new(1), spatial: dims.len().saturating_sub(2) };
        let input = tensor_info("image", dims, pb::tensor_proto::DataType::Float);
        net.graph().input.push(input);
        net
    }

    pub fn graph(&mut self) -> &mut pb::GraphProto {
        self.model.graph.get_or_insert_default()
    }

    pub fn opset(mut self, version: i64) -> Self {
        self.model.opset_import[0].version = version;
        self
    }

    /// Adds an operator.
    pub fn op(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        self.names += 1;
        let name = format!("{}_{}", op.to_lowercase(), self.names);
        let node = pb::NodeProto {
            op_type: op.into(),
            name: format!("/net/{name}"),
            input: inputs.iter().map(|i| (*i).into()).collect(),
            output: vec![name.clone()],
            attribute: attributes.iter().map(|(key, value)| value.proto(key)).collect(),
            ..Default::default()
        };
        self.graph().node.push(node);
        name
    }

    /// Adds a constant of floats.
    pub fn floats(&mut self, shape: &[usize], values: &[f32]) -> String {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(shape, pb::tensor_proto::DataType::Float, raw)
    }

    /// Adds a constant list of integers.
    pub fn ints(&mut self, values: &[i64]) -> String {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(&[values.len()], pb::tensor_proto::DataType::Int64, raw)
    }

    fn constant(&mut self, shape: &[usize], kind: pb::tensor_proto::DataType, raw: Vec<u8>) -> String {
        self.names += 1;
        let name = format!("constant_{}", self.names);
        let tensor = pb::TensorProto {
            name: name.clone(),
            dims: shape.iter().map(|&d| d as i64).collect(),
            data_type: kind as i32,
            raw_data: raw,
            ..Default::default()
        };
        self.graph().initializer.push(tensor);
        name
    }

    /// Adds random weights whose squares sum to about 1 for each output.
    pub fn weights(&mut self, shape: &[usize]) -> String {
        let fan_in: usize = shape[1..].iter().product();
        let gain = (3.0 / fan_in.max(1) as f32).sqrt();
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| gain * self.numbers.signed()).collect();
        self.floats(shape, &values)
    }

    /// A convolution with random weights that keeps the size: odd kernel, stride 1.
    pub fn conv(&mut self, x: &str, from: usize, to: usize, kernel: usize) -> String {
        let pad = (kernel / 2) as i64;
        self.conv_with(x, from, to, kernel, &[("pads", Attribute::Ints(vec![pad; 2 * self.spatial]))])
    }

    /// A convolution with random weights.
    pub fn conv_with(&mut self, x: &str, from: usize, to: usize, kernel: usize, with: &[(&str, Attribute)]) -> String {
        let shape: Vec<usize> = [to, from].into_iter().chain(vec![kernel; self.spatial]).collect();
        let weight = self.weights(&shape);
        let values: Vec<f32> = (0..to).map(|_| 0.1 * self.numbers.signed()).collect();
        let bias = self.floats(&[to], &values);
        self.op("Conv", &[x, &weight, &bias], with)
    }

    /// Nearest-neighbour upsampling by a factor.
    pub fn upsample(&mut self, x: &str, factor: f32) -> String {
        self.resize(
            x,
            factor,
            &[
                ("mode", Attribute::Text("nearest")),
                ("coordinate_transformation_mode", Attribute::Text("asymmetric")),
                ("nearest_mode", Attribute::Text("floor")),
            ],
        )
    }

    /// Resize of the spatial axes by a factor.
    pub fn resize(&mut self, x: &str, factor: f32, with: &[(&str, Attribute)]) -> String {
        let scales: Vec<f32> = [1.0, 1.0].into_iter().chain(vec![factor; self.spatial]).collect();
        let scales = self.floats(&[scales.len()], &scales);
        self.op("Resize", &[x, "", &scales], with)
    }

    /// Max-pooling by 2.
    pub fn pool(&mut self, x: &str) -> String {
        let two = || Attribute::Ints(vec![2; self.spatial]);
        let with = [("kernel_shape", two()), ("strides", two())];
        self.op("MaxPool", &[x], &with)
    }

    /// Names the output and gives the file.
    pub fn finish(mut self, output: &str) -> Vec<u8> {
        let dims = vec![None; self.spatial + 2];
        let info = tensor_info(output, &dims, pb::tensor_proto::DataType::Float);
        self.graph().output.push(info);
        self.model.encode_to_vec()
    }
}

/// The description of an input or output.
pub fn tensor_info(name: &str, dims: &[Option<usize>], kind: pb::tensor_proto::DataType) -> pb::ValueInfoProto {
    use pb::tensor_shape_proto::{Dimension, dimension::Value};
    let free = |i: usize| match i {
        0 => "n".to_owned(),
        1 => "c".to_owned(),
        i => AXES.get(i + 3 - dims.len().max(3)).map_or_else(|| format!("d{i}"), |a| (*a).to_owned()),
    };
    let dim = |(i, d): (usize, &Option<usize>)| Dimension {
        value: Some(d.map_or_else(|| Value::DimParam(free(i)), |d| Value::DimValue(d as i64))),
        ..Default::default()
    };
    let shape = pb::TensorShapeProto { dim: dims.iter().enumerate().map(dim).collect() };
    let tensor = pb::type_proto::Tensor { elem_type: kind as i32, shape: Some(shape) };
    let value = Some(pb::type_proto::Value::TensorType(tensor));
    pb::ValueInfoProto {
        name: name.into(),
        r#type: Some(pb::TypeProto { value, ..Default::default() }),
        ..Default::default()
    }
}

/// Attribute of an operator.
#[derive(Clone)]
pub enum Attribute {
    Int(i64),
    Ints(Vec<i64>),
    Float(f32),
    Text(&'static str),
}

impl Attribute {
    fn proto(&self, key: &str) -> pb::AttributeProto {
        use pb::attribute_proto::AttributeType as T;
        let mut proto = pb::AttributeProto { name: key.into(), ..Default::default() };
        let kind = match self {
            Self::Int(i) => {
                proto.i = *i;
                T::Int
            }
            Self::Ints(ints) => {
                proto.ints.clone_from(ints);
                T::Ints
            }
            Self::Float(f) => {
                proto.f = *f;
                T::Float
            }
            Self::Text(text) => {
                proto.s = text.as_bytes().to_vec();
                T::String
            }
        };
        proto.r#type = kind as i32;
        proto
    }
}

/// The same file with these `metadata_props`, which replace those of the same key.
pub fn with_metadata(onnx: &[u8], entries: &[(&str, &str)]) -> Vec<u8> {
    let mut model = pb::ModelProto::decode(onnx).expect("a file made here");
    let mut all: BTreeMap<String, String> = model.metadata_props.drain(..).map(|e| (e.key, e.value)).collect();
    all.extend(entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    model.metadata_props = all.into_iter().map(|(key, value)| pb::StringStringEntryProto { key, value }).collect();
    model.encode_to_vec()
}

/// Gives back its input.
pub fn identity() -> Vec<u8> {
    let mut net = Net::new(2, 1);
    let y = net.op("Identity", &["image"], &[]);
    net.finish(&y)
}

/// Gives back its input of two channels.
pub fn two_channels() -> Vec<u8> {
    let mut net = Net::new(2, 2);
    let y = net.op("Identity", &["image"], &[]);
    net.finish(&y)
}

/// As [`identity`], for stacks (Z, Y, X).
pub fn identity_3d() -> Vec<u8> {
    let mut net = Net::new(3, 1);
    let y = net.op("Identity", &["image"], &[]);
    net.finish(&y)
}

/// Mean of 3×3 pixels, zeros beyond the border.
pub fn mean3() -> Vec<u8> {
    let mut net = Net::new(2, 1);
    let weight = net.floats(&[1, 1, 3, 3], &[1.0 / 9.0; 9]);
    let y = net.op("Conv", &["image", &weight], &[("pads", Attribute::Ints(vec![1; 4]))]);
    net.finish(&y)
}

/// Each pixel times a weight.
pub fn scaled(weight: f32) -> Vec<u8> {
    let mut net = Net::new(2, 1);
    let weight = net.floats(&[1, 1, 1, 1], &[weight]);
    let y = net.op("Conv", &["image", &weight], &[]);
    net.finish(&y)
}

/// Mean of 3×3×3 pixels, zeros beyond the border.
pub fn mean3_3d() -> Vec<u8> {
    let mut net = Net::new(3, 1);
    let weight = net.floats(&[1, 1, 3, 3, 3], &[1.0 / 27.0; 27]);
    let y = net.op("Conv", &["image", &weight], &[("pads", Attribute::Ints(vec![1; 6]))]);
    net.finish(&y)
}

/// Each pixel becomes 2×2.
pub fn upsample2() -> Vec<u8> {
    let mut net = Net::new(2, 1);
    let y = net.upsample("image", 2.0);
    net.finish(&y)
}

/// A convolution followed by InstanceNormalization: every pixel depends on the whole image.
pub fn instance_norm() -> Vec<u8> {
    let mut net = Net::new(2, 1);
    let x = net.conv("image", 1, 4, 3);
    let (scale, bias) = (net.floats(&[4], &[1.0; 4]), net.floats(&[4], &[0.0; 4]));
    let x = net.op("InstanceNormalization", &[&x, &scale, &bias], &[]);
    let y = net.conv(&x, 4, 1, 3);
    net.finish(&y)
}

/// Subtracts the mean of the whole image.
pub fn global_pool() -> Vec<u8> {
    let mut net = Net::new(2, 1);
    let mean = net.op("GlobalAveragePool", &["image"], &[]);
    let y = net.op("Sub", &["image", &mean], &[]);
    net.finish(&y)
}

/// A U-Net of this depth and number of features, 3×3 convolutions, nearest upsampling, residual; weights are random
/// but always the same.
pub fn unet(depth: usize, features: usize) -> Vec<u8> {
    unet_with(Net::new(2, 1), depth, features)
}

/// As [`unet`], in a network that was begun.
pub fn unet_with(net: Net, depth: usize, features: usize) -> Vec<u8> {
    unet_with_kernel(net, depth, features, 3)
}

/// As [`unet_with`], with other kernels.
pub fn unet_with_kernel(mut net: Net, depth: usize, features: usize, kernel: usize) -> Vec<u8> {
    let mut skips = vec![];
    let (mut x, mut from) = ("image".to_owned(), 1);
    for level in 0..=depth {
        let width = features << level;
        for _ in 0..2 {
            let y = net.conv(&x, from, width, kernel);
            x = net.op("Relu", &[&y], &[]);
            from = width;
        }
        if level < depth {
            skips.push((x.clone(), width));
            x = net.pool(&x);
        }
    }
    for (skip, width) in skips.into_iter().rev() {
        let up = net.upsample(&x, 2.0);
        x = net.op("Concat", &[&up, &skip], &[("axis", Attribute::Int(1))]);
        from += width;
        for _ in 0..2 {
            let y = net.conv(&x, from, width, kernel);
            x = net.op("Relu", &[&y], &[]);
            from = width;
        }
    }
    let y = net.conv(&x, from, 1, 1);
    let y = net.op("Add", &[&y, "image"], &[]);
    net.finish(&y)
}

/// Two inputs: refused.
pub fn two_inputs() -> Vec<u8> {
    let mut net = Net::new(2, 1);
    let dims = [None, Some(1), None, None];
    let second = tensor_info("mask", &dims, pb::tensor_proto::DataType::Float);
    net.graph().input.push(second);
    let y = net.op("Add", &["image", "mask"], &[]);
    net.finish(&y)
}

/// Two outputs: refused.
pub fn two_outputs() -> Vec<u8> {
    let mut net = Net::new(2, 1);
    let a = net.op("Relu", &["image"], &[]);
    let b = net.op("Sigmoid", &["image"], &[]);
    let info = tensor_info(&a, &[None; 4], pb::tensor_proto::DataType::Float);
    net.graph().output.push(info);
    net.finish(&b)
}

/// No output: refused.
pub fn no_output() -> Vec<u8> {
    let mut net = Net::new(2, 1);
    net.op("Relu", &["image"], &[]);
    net.model.encode_to_vec()
}

/// An input of two axes: refused.
pub fn wrong_rank() -> Vec<u8> {
    let mut net = Net::with_input(&[None, None]);
    let y = net.op("Relu", &["image"], &[]);
    net.finish(&y)
}

/// An input of N, Y, X, C: refused.
pub fn channels_last() -> Vec<u8> {
    let mut net = Net::with_input(&[None, None, None, Some(1)]);
    let y = net.op("Relu", &["image"], &[]);
    net.finish(&y)
}

/// An operator that nobody has: refused by name.
pub fn unknown_operator() -> Vec<u8> {
    let mut net = Net::new(2, 1);
    let y = net.op("Frobnicate", &["image"], &[]);
    net.finish(&y)
}
