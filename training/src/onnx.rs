//! A small ONNX graph builder on tract's schema. Only what the nets need, in the plainest form: opset 13 and IR 7, so
//! that old runtimes read it; N, Y and X are symbolic; weights are inside the file. Knows no network.

use prost::Message;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};
use tract_onnx::pb;
use tract_onnx::pb::{attribute_proto::AttributeType, tensor_proto::DataType};

const OPSET: i64 = 13;
const IR_VERSION: i64 = 7;

/// Name of the graph's input, N, C, Y, X.
pub const INPUT: &str = "input";
/// Name of the graph's output.
pub const OUTPUT: &str = "output";

/// A graph under construction: each method appends a node and returns the name of its result.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: Vec<pb::NodeProto>,
    initializers: Vec<pb::TensorProto>,
}

impl Graph {
    /// Stride 1, zero padding that keeps the sides; `weight` is O, I, K, K with K odd.
    pub fn conv(&mut self, name: &str, input: &str, weight: &Tensor, bias: &Tensor) -> String {
        self.strided_conv(name, input, weight, bias, 1, weight.size()[2] / 2)
    }

    /// Zero padding on all sides; `weight` is O, I, K, K.
    pub fn strided_conv(
        &mut self,
        name: &str,
        input: &str,
        weight: &Tensor,
        bias: &Tensor,
        stride: i64,
        padding: i64,
    ) -> String {
        self.convolution("Conv", name, input, [weight, bias], [stride, padding], vec![])
    }

    /// PyTorch's `ConvTranspose2d`: `weight` is I, O, K, K; the sides grow by `stride`, less 2·`padding`, plus K − stride
    /// and `output_padding`.
    #[allow(clippy::too_many_arguments, reason = "as PyTorch's")]
    pub fn conv_transpose(
        &mut self,
        name: &str,
        input: &str,
        weight: &Tensor,
        bias: &Tensor,
        stride: i64,
        padding: i64,
        output_padding: i64,
    ) -> String {
        let extra = vec![ints("output_padding", &[output_padding; 2])];
        self.convolution("ConvTranspose", name, input, [weight, bias], [stride, padding], extra)
    }

    fn convolution(
        &mut self,
        operator: &str,
        name: &str,
        input: &str,
        [weight, bias]: [&Tensor; 2],
        [stride, padding]: [i64; 2],
        mut attributes: Vec<pb::AttributeProto>,
    ) -> String {
        attributes.push(ints("kernel_shape", &weight.size()[2..]));
        attributes.push(ints("strides", &[stride; 2]));
        attributes.push(ints("pads", &[padding; 4]));
        let weight = self.initializer(&format!("{name}.weight"), weight);
        let bias = self.initializer(&format!("{name}.bias"), bias);
        self.node(operator, name, &[input, &weight, &bias], attributes)
    }

    /// γ (x − μ) / σ + β with mean and deviation of each channel of each image; γ and β have one value per channel.
    pub fn instance_normalization(
        &mut self,
        name: &str,
        input: &str,
        gamma: &Tensor,
        beta: &Tensor,
        epsilon: f32,
    ) -> String {
        let gamma = self.initializer(&format!("{name}.weight"), gamma);
        let beta = self.initializer(&format!("{name}.bias"), beta);
        self.node("InstanceNormalization", name, &[input, &gamma, &beta], vec![float("epsilon", epsilon)])
    }

    /// Mirrors so many pixels along Y and X beyond each border, which is not repeated itself.
    pub fn reflection_pad(&mut self, input: &str, padding: i64) -> String {
        self.pad(input, padding, "reflect")
    }

    /// Repeats the pixels at each border so many times beyond it, along Y and X.
    pub fn edge_pad(&mut self, input: &str, padding: i64) -> String {
        self.pad(input, padding, "edge")
    }

    fn pad(&mut self, input: &str, padding: i64, mode: &str) -> String {
        let name = format!("{input}_padded");
        let pads = self.integers(&format!("{name}.pads"), &[0, 0, padding, padding, 0, 0, padding, padding]);
        self.node("Pad", &name, &[input, &pads], vec![string("mode", mode)])
    }

    /// max(x, 0).
    pub fn relu(&mut self, input: &str) -> String {
        self.node("Relu", &format!("{input}_relu"), &[input], vec![])
    }

    /// Hyperbolic tangent.
    pub fn tanh(&mut self, input: &str) -> String {
        self.node("Tanh", &format!("{input}_tanh"), &[input], vec![])
    }

    /// Maximum of squares of this side, without overlap.
    pub fn max_pool(&mut self, input: &str, side: i64) -> String {
        let attributes = vec![ints("kernel_shape", &[side; 2]), ints("strides", &[side; 2])];
        self.node("MaxPool", &format!("{input}_pooled"), &[input], attributes)
    }

    /// Repeats every pixel `factor` times along Y and X. Asymmetric coordinates rounded down are the one variant of
    /// ONNX's nearest-neighbour that is plain repetition in every runtime.
    pub fn upsample_nearest(&mut self, input: &str, factor: i64) -> String {
        let name = format!("{input}_enlarged");
        let scales = Tensor::from_slice(&[1.0, 1.0, factor as f32, factor as f32]);
        let scales = self.initializer(&format!("{name}.scales"), &scales);
        let attributes = vec![
            string("mode", "nearest"),
            string("coordinate_transformation_mode", "asymmetric"),
            string("nearest_mode", "floor"),
        ];
        self.node("Resize", &name, &[input, "", &scales], attributes)
    }

    /// Channels side by side.
    pub fn concat(&mut self, inputs: &[String]) -> String {
        let names: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let name = inputs.join("_and_");
        self.node("Concat", &name, &names, vec![int("axis", 1)])
    }

    /// Sum of two tensors of one shape.
    pub fn add(&mut self, a: &str, b: &str) -> String {
        self.node("Add", &format!("{a}_plus_{b}"), &[a, b], vec![])
    }

    /// Product of two tensors of one shape.
    pub fn multiply(&mut self, a: &str, b: &str) -> String {
        self.node("Mul", &format!("{a}_times_{b}"), &[a, b], vec![])
    }

    /// The file: `result` becomes the output, of one channel, with the Y and X of the input, which has `channels`.
    pub fn finish(mut self, result: &str, channels: i64, metadata: &BTreeMap<String, String>) -> Vec<u8> {
        for node in &mut self.nodes {
            for name in node.output.iter_mut().filter(|name| *name == result) {
                *name = OUTPUT.to_owned();
            }
        }
        let graph = pb::GraphProto {
            name: "mdr".into(),
            node: self.nodes,
            initializer: self.initializers,
            input: vec![image(INPUT, channels)],
            output: vec![image(OUTPUT, 1)],
            ..Default::default()
        };
        let model = pb::ModelProto {
            ir_version: IR_VERSION,
            opset_import: vec![pb::OperatorSetIdProto { domain: String::new(), version: OPSET }],
            producer_name: "mdr-train".into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            graph: Some(graph),
            metadata_props: metadata
                .iter()
                .map(|(key, value)| pb::StringStringEntryProto { key: key.clone(), value: value.clone() })
                .collect(),
            ..Default::default()
        };
        model.encode_to_vec()
    }

    fn initializer(&mut self, name: &str, tensor: &Tensor) -> String {
        let mut values = vec![0f32; tensor.numel()];
        let flat = tensor.detach().to_kind(Kind::Float).to_device(tch::Device::Cpu).contiguous().reshape([-1]);
        flat.copy_data(&mut values, tensor.numel());
        self.initializers.push(pb::TensorProto {
            name: name.to_owned(),
            dims: tensor.size(),
            data_type: DataType::Float as i32,
            raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ..Default::default()
        });
        name.to_owned()
    }

    fn integers(&mut self, name: &str, values: &[i64]) -> String {
        self.initializers.push(pb::TensorProto {
            name: name.to_owned(),
            dims: vec![values.len() as i64],
            data_type: DataType::Int64 as i32,
            raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ..Default::default()
        });
        name.to_owned()
    }

    fn node(&mut self, operator: &str, name: &str, inputs: &[&str], attribute: Vec<pb::AttributeProto>) -> String {
        self.nodes.push(pb::NodeProto {
            op_type: operator.into(),
            name: name.into(),
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: vec![name.into()],
            attribute,
            ..Default::default()
        });
        name.to_owned()
    }
}

fn image(name: &str, channels: i64) -> pb::ValueInfoProto {
    use pb::tensor_shape_proto::{Dimension, dimension::Value};
    let symbol = |name: &str| Value::DimParam(name.into());
    let dim = [symbol("n"), Value::DimValue(channels), symbol("y"), symbol("x")]
        .map(|value| Dimension { value: Some(value), ..Default::default() });
    let tensor = pb::type_proto::Tensor {
        elem_type: DataType::Float as i32,
        shape: Some(pb::TensorShapeProto { dim: dim.into() }),
    };
    let value = Some(pb::type_proto::Value::TensorType(tensor));
    pb::ValueInfoProto {
        name: name.into(),
        r#type: Some(pb::TypeProto { value, ..Default::default() }),
        ..Default::default()
    }
}

fn attribute(name: &str, kind: AttributeType) -> pb::AttributeProto {
    pb::AttributeProto { name: name.into(), r#type: kind as i32, ..Default::default() }
}

fn float(name: &str, value: f32) -> pb::AttributeProto {
    pb::AttributeProto { f: value, ..attribute(name, AttributeType::Float) }
}

fn int(name: &str, value: i64) -> pb::AttributeProto {
    pb::AttributeProto { i: value, ..attribute(name, AttributeType::Int) }
}

fn ints(name: &str, values: &[i64]) -> pb::AttributeProto {
    pb::AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

fn string(name: &str, value: &str) -> pb::AttributeProto {
    pb::AttributeProto { s: value.as_bytes().to_vec(), ..attribute(name, AttributeType::String) }
}
