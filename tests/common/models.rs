//! Tiny ONNX files, each of one layer, without metadata: what the engine makes of a file that is not its own.

use prost::Message;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, type_proto,
};

/// Gives its input back.
pub fn identity() -> Vec<u8> {
    model("Identity", 1, None, &[])
}

/// Mean of a pixel and its eight neighbours; zeros outside the image.
pub fn mean_3x3() -> Vec<u8> {
    model("Conv", 1, Some((3, 1.0 / 9.0)), &[("pads", &[1, 1, 1, 1])])
}

/// Each pixel becomes two by two.
pub fn upscale_2() -> Vec<u8> {
    model("ConvTranspose", 1, Some((2, 1.0)), &[("strides", &[2, 2])])
}

/// Gives back an input of two channels.
pub fn two_channels() -> Vec<u8> {
    model("Identity", 2, None, &[])
}

/// A graph of one node; `kernel` is the side and the value of a square constant kernel.
fn model(op_type: &str, channels: i64, kernel: Option<(i64, f32)>, attributes: &[(&str, &[i64])]) -> Vec<u8> {
    let weights = kernel.map(|(side, value)| TensorProto {
        name: "weights".into(),
        dims: vec![1, 1, side, side],
        data_type: DataType::Float as i32,
        float_data: vec![value; (side * side) as usize],
        ..Default::default()
    });
    let attribute = |&(name, values): &(&str, &[i64])| AttributeProto {
        name: name.into(),
        r#type: AttributeType::Ints as i32,
        ints: values.to_vec(),
        ..Default::default()
    };
    let input = ["x"].into_iter().chain(weights.as_ref().map(|_| "weights"));
    let node = NodeProto {
        op_type: op_type.into(),
        input: input.map(String::from).collect(),
        output: vec!["y".into()],
        attribute: attributes.iter().map(attribute).collect(),
        ..Default::default()
    };
    let graph = GraphProto {
        name: op_type.into(),
        node: vec![node],
        initializer: weights.into_iter().collect(),
        input: vec![image("x", channels)],
        output: vec![image("y", channels)],
        ..Default::default()
    };
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { version: 13, ..Default::default() }],
        graph: Some(graph),
        ..Default::default()
    }
    .encode_to_vec()
}

/// A tensor N, C, Y, X of any size along all but C.
fn image(name: &str, channels: i64) -> ValueInfoProto {
    let any = |axis: &str| Value::DimParam(axis.into());
    let dims = [any("N"), Value::DimValue(channels), any("Y"), any("X")];
    let dim = dims.map(|value| Dimension { value: Some(value), ..Default::default() }).to_vec();
    let tensor = type_proto::Tensor { elem_type: DataType::Float as i32, shape: Some(TensorShapeProto { dim }) };
    let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() });
    ValueInfoProto { name: name.into(), r#type, ..Default::default() }
}
