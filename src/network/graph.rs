//! ONNX bytes → a checked graph: what tract is given, and the light copy from which `halo` and `memory` read
//! shapes. tract trusts a file in several places (it indexes maps with names from the file, evaluates constants of
//! any size, and recurses into sub-graphs), so everything that can be refused by looking is refused here, by name,
//! before tract sees it. What tract does not need (documentation, recorded shapes) is dropped from its copy.

use std::collections::{BTreeMap, HashMap, HashSet};
use tract_onnx::pb::{self, tensor_proto::DataType};
use tract_onnx::prelude::Framework;

/// Largest model file in bytes.
pub(super) const MAX_FILE_BYTES: usize = 1 << 31;
/// Constants up to this many elements are kept, as they may hold shapes or scales.
const MAX_KEPT: usize = 64;
/// Largest kernel side, stride, dilation or pad.
const MAX_ATTRIBUTE: i64 = 1 << 16;

type Check<T> = std::result::Result<T, String>;

/// A tensor that is part of the file.
#[derive(Clone, Debug)]
pub(super) struct Constant {
    pub shape: Vec<usize>,
    /// The elements, where they are few.
    pub data: Option<Vec<f64>>,
    /// Whether the elements are integers.
    pub integer: bool,
}

/// An operator of the graph.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub op: String,
    /// Its name in the file, or that of its first output.
    pub name: String,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    ints: HashMap<String, Vec<i64>>,
    floats: HashMap<String, Vec<f32>>,
    strings: HashMap<String, String>,
}

impl Node {
    pub fn int(&self, key: &str, default: i64) -> i64 {
        self.ints.get(key).and_then(|v| v.first()).copied().unwrap_or(default)
    }

    pub fn ints(&self, key: &str) -> Option<&[i64]> {
        self.ints.get(key).map(Vec::as_slice)
    }

    pub fn floats(&self, key: &str) -> Option<&[f32]> {
        self.floats.get(key).map(Vec::as_slice)
    }

    pub fn string<'a>(&'a self, key: &str, default: &'a str) -> &'a str {
        self.strings.get(key).map_or(default, String::as_str)
    }

    /// `Conv "/down/0/Conv"`, for messages.
    pub fn label(&self) -> String {
        format!("{} {:?}", self.op, shortened(&self.name))
    }
}

/// A length of the input: fixed by the file, or free.
pub(super) type Dim = Option<usize>;

/// The graph without its weights.
#[derive(Clone, Debug)]
pub(super) struct Graph {
    pub opset: i64,
    pub nodes: Vec<Node>,
    pub constants: HashMap<String, Constant>,
    pub input: String,
    pub input_dims: Vec<Dim>,
    pub output: String,
    /// Bytes of all weights.
    pub weight_bytes: u64,
    pub metadata: BTreeMap<String, String>,
}

/// A name from the file, cut to a length that fits a message.
fn shortened(name: &str) -> String {
    if name.chars().count() <= 80 { name.to_owned() } else { name.chars().take(77).chain("...".chars()).collect() }
}

/// Parses and checks; gives the graph and what tract is to load.
pub(super) fn parse(bytes: &[u8]) -> Check<(Graph, pb::ModelProto)> {
    if bytes.is_empty() {
        return Err("the file is empty; expected an ONNX model".into());
    }
    if bytes.len() > MAX_FILE_BYTES {
        return Err(format!("{} bytes; an ONNX file holds at most 2 GiB", bytes.len()));
    }
    let mut reader = bytes;
    let mut model = tract_onnx::onnx()
        .proto_model_for_read(&mut reader)
        .map_err(|_| "not an ONNX file, or a truncated one".to_owned())?;
    let opset = opset(&model)?;
    let mut metadata = BTreeMap::new();
    for entry in &model.metadata_props {
        metadata.insert(entry.key.clone(), entry.value.clone());
    }
    let graph = model.graph.as_mut().ok_or("not an ONNX file, or a truncated one: it holds no graph")?;
    let parsed = check(graph, opset, metadata)?;
    strip(&mut model, &parsed);
    Ok((parsed, model))
}

fn opset(model: &pb::ModelProto) -> Check<i64> {
    let import = model.opset_import.iter().find(|i| i.domain.is_empty() || i.domain == "ai.onnx");
    match import.map(|i| i.version) {
        None => Err("not an ONNX file, or a truncated one: it names no operator set".into()),
        Some(version) if (7..=22).contains(&version) => Ok(version),
        Some(version) => Err(format!("operator set {version}; mdr reads 7 to 22: export the model with opset 17")),
    }
}

/// Drops what tract does not need, and the shape of the input, which is set for each tile.
fn strip(model: &mut pb::ModelProto, parsed: &Graph) {
    model.metadata_props.clear();
    model.training_info.clear();
    model.functions.clear();
    model.doc_string.clear();
    model.producer_name.clear();
    model.producer_version.clear();
    model.domain.clear();
    let Some(graph) = model.graph.as_mut() else { return };
    graph.value_info.clear();
    graph.quantization_annotation.clear();
    graph.doc_string.clear();
    graph.input.retain(|input| input.name == parsed.input);
    for value in graph.input.iter_mut().chain(&mut graph.output) {
        if let Some(pb::type_proto::Value::TensorType(tensor)) = value.r#type.as_mut().and_then(|t| t.value.as_mut()) {
            tensor.shape = None;
        }
    }
    for node in &mut graph.node {
        node.doc_string.clear();
        // Without a value ONNX means 0f32, tract 0f64.
        if node.op_type == "ConstantOfShape" && node.attribute.is_empty() {
            let zero = pb::TensorProto {
                dims: vec![1],
                data_type: DataType::Float as i32,
                float_data: vec![0.0],
                ..Default::default()
            };
            node.attribute.push(pb::AttributeProto {
                name: "value".into(),
                r#type: pb::attribute_proto::AttributeType::Tensor as i32,
                t: Some(zero),
                ..Default::default()
            });
        }
    }
}

fn check(graph: &mut pb::GraphProto, opset: i64, metadata: BTreeMap<String, String>) -> Check<Graph> {
    if !graph.sparse_initializer.is_empty() {
        return Err("sparse weights are not supported; export dense ones".into());
    }
    let mut constants = HashMap::new();
    let mut weight_bytes = 0u64;
    for tensor in &graph.initializer {
        let constant = constant(tensor)?;
        weight_bytes += tensor_bytes(tensor);
        if constants.insert(tensor.name.clone(), constant).is_some() {
            return Err(format!("two weights are called {:?}", shortened(&tensor.name)));
        }
    }
    let (input, input_dims) = input(graph, &constants)?;
    let output = output(graph)?;

    let supported = tract_onnx::onnx().op_register.0;
    let mut known: HashSet<&str> = constants.keys().map(String::as_str).collect();
    known.insert(&input);
    let mut nodes = Vec::with_capacity(graph.node.len());
    for node in &graph.node {
        let node = self::node(node, &mut weight_bytes)?;
        if !supported.contains_key(&node.op) {
            return Err(format!("operator {} is not supported", node.label()));
        }
        nodes.push(node);
    }
    for (node, source) in nodes.iter().zip(&graph.node) {
        if let Some(missing) = source.input.iter().find(|i| !i.is_empty() && !known.contains(i.as_str())) {
            return Err(format!("{} reads {:?}, which nothing before it makes", node.label(), shortened(missing)));
        }
        for name in source.output.iter().filter(|o| !o.is_empty()) {
            if !known.insert(name) {
                return Err(format!("{} makes {:?} a second time", node.label(), shortened(name)));
            }
        }
    }
    if !known.contains(output.as_str()) {
        return Err(format!("nothing makes the output {:?}", shortened(&output)));
    }
    Ok(Graph { opset, nodes, constants, input, input_dims, output, weight_bytes, metadata })
}

fn input(graph: &pb::GraphProto, constants: &HashMap<String, Constant>) -> Check<(String, Vec<Dim>)> {
    let inputs: Vec<_> = graph.input.iter().filter(|i| !constants.contains_key(&i.name)).collect();
    let [input] = inputs[..] else {
        let names: Vec<_> = inputs.iter().take(8).map(|i| shortened(&i.name)).collect();
        return Err(match inputs.len() {
            0 => "it has no input; expected one, an image".to_owned(),
            n => format!("it has {n} inputs ({}); expected one, an image", names.join(", ")),
        });
    };
    let name = shortened(&input.name);
    let tensor = match input.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(pb::type_proto::Value::TensorType(tensor)) => tensor,
        None => return Err(format!("input {name:?} has no tensor type; expected float32")),
    };
    match DataType::try_from(tensor.elem_type) {
        Ok(DataType::Float) => {}
        Ok(other) => {
            let found = other.as_str_name().to_ascii_lowercase();
            return Err(format!("input {name:?} is {found}; expected float32: convert the model to float32 first"));
        }
        Err(_) => return Err(format!("input {name:?} has the unknown type {}; expected float32", tensor.elem_type)),
    }
    let shape = tensor.shape.as_ref().ok_or_else(|| format!("input {name:?} has no shape; expected N, C, Y, X"))?;
    let mut dims = Vec::new();
    for dim in &shape.dim {
        dims.push(match dim.value {
            Some(pb::tensor_shape_proto::dimension::Value::DimValue(v)) if v > 0 => match usize::try_from(v) {
                Ok(v) if v <= 1 << 24 => Some(v),
                _ => return Err(format!("input {name:?} has an axis of length {v}")),
            },
            Some(pb::tensor_shape_proto::dimension::Value::DimValue(0)) => {
                return Err(format!("input {name:?} has an axis of length 0"));
            }
            _ => None,
        });
    }
    if !(4..=5).contains(&dims.len()) {
        return Err(format!("input {name:?} has {} axes; expected 4 (N, C, Y, X) or 5 (N, C, Z, Y, X)", dims.len()));
    }
    // A network for images of one column has no use.
    if dims.last() == Some(&Some(1)) && dims[1] != Some(1) {
        return Err(format!(
            "the last axis of input {name:?} is 1 long, as where channels come last; expected N, C, Y, X: export the \
             model with its channels first"
        ));
    }
    if let Some(n @ 2..) = dims[0] {
        return Err(format!("input {name:?} has a batch of {n}; expected 1: export with a free batch axis"));
    }
    Ok((input.name.clone(), dims))
}

fn output(graph: &pb::GraphProto) -> Check<String> {
    match &graph.output[..] {
        [] => Err("it has no output; expected one, an image".into()),
        [output] => {
            if let Some(pb::type_proto::Value::TensorType(tensor)) =
                output.r#type.as_ref().and_then(|t| t.value.as_ref())
                && !matches!(DataType::try_from(tensor.elem_type), Ok(DataType::Float | DataType::Undefined))
            {
                let found = DataType::try_from(tensor.elem_type)
                    .map_or("unknown".into(), |t| t.as_str_name().to_ascii_lowercase());
                return Err(format!("output {:?} is {found}; expected float32", shortened(&output.name)));
            }
            Ok(output.name.clone())
        }
        outputs => {
            let names: Vec<_> = outputs.iter().take(8).map(|o| shortened(&o.name)).collect();
            Err(format!(
                "it has {} outputs ({}); expected one: export the restored image alone",
                outputs.len(),
                names.join(", ")
            ))
        }
    }
}

fn node(node: &pb::NodeProto, weight_bytes: &mut u64) -> Check<Node> {
    let name = if node.name.is_empty() { node.output.first().cloned().unwrap_or_default() } else { node.name.clone() };
    let mut result = Node {
        op: node.op_type.clone(),
        name,
        inputs: node.input.clone(),
        outputs: node.output.clone(),
        ints: HashMap::new(),
        floats: HashMap::new(),
        strings: HashMap::new(),
    };
    if !node.domain.is_empty() && node.domain != "ai.onnx" {
        return Err(format!("operator {} of domain {:?} is not supported", result.label(), shortened(&node.domain)));
    }
    if node.output.iter().all(String::is_empty) {
        return Err(format!("{} has no output", result.label()));
    }
    for attribute in &node.attribute {
        let key = attribute.name.clone();
        if attribute.g.is_some() || !attribute.graphs.is_empty() {
            return Err(format!("operator {} holds a sub-graph, which is not supported", result.label()));
        }
        if !attribute.ref_attr_name.is_empty()
            || attribute.sparse_tensor.is_some()
            || !attribute.sparse_tensors.is_empty()
        {
            return Err(format!("attribute {:?} of {} is not supported", shortened(&key), result.label()));
        }
        let tensors = attribute.t.iter().chain(&attribute.tensors);
        for tensor in tensors {
            constant(tensor).map_err(|e| format!("{}: {e}", result.label()))?;
            *weight_bytes += tensor_bytes(tensor);
        }
        if let Some(tensor) = &attribute.t {
            let constant = constant(tensor)?;
            if let Some(data) = constant.data {
                result.floats.insert(key.clone(), data.iter().map(|&v| v as f32).collect());
                result.ints.insert(key.clone(), data.iter().map(|&v| v as i64).collect());
            }
            result.ints.insert(format!("{key}.shape"), constant.shape.iter().map(|&d| d as i64).collect());
            result.ints.insert(format!("{key}.integer"), vec![constant.integer.into()]);
            continue;
        }
        let ints = if attribute.ints.is_empty() { vec![attribute.i] } else { attribute.ints.clone() };
        let bounded = ["kernel_shape", "strides", "dilations", "pads", "output_padding", "blocksize", "group"];
        if bounded.contains(&key.as_str()) && ints.iter().any(|v| v.unsigned_abs() > MAX_ATTRIBUTE as u64) {
            return Err(format!("{key} {ints:?} of {} is out of range", result.label()));
        }
        use pb::attribute_proto::AttributeType as T;
        match T::try_from(attribute.r#type) {
            Ok(T::Ints) => drop(result.ints.insert(key, attribute.ints.clone())),
            Ok(T::Int) => drop(result.ints.insert(key, vec![attribute.i])),
            Ok(T::Floats) => drop(result.floats.insert(key, attribute.floats.clone())),
            Ok(T::Float) => drop(result.floats.insert(key, vec![attribute.f])),
            Ok(T::String) => drop(result.strings.insert(key, String::from_utf8_lossy(&attribute.s).into_owned())),
            _ => {}
        }
    }
    Ok(result)
}

fn tensor_bytes(tensor: &pb::TensorProto) -> u64 {
    let typed = 4 * (tensor.float_data.len() + tensor.int32_data.len())
        + 8 * (tensor.int64_data.len() + tensor.double_data.len() + tensor.uint64_data.len());
    (tensor.raw_data.len() + typed) as u64
}

/// Checks that a tensor of the file holds as many elements as its shape says.
fn constant(tensor: &pb::TensorProto) -> Check<Constant> {
    let name = shortened(&tensor.name);
    if tensor.data_location == Some(pb::tensor_proto::DataLocation::External as i32) || !tensor.external_data.is_empty()
    {
        let location = tensor.external_data.iter().find(|e| e.key == "location");
        let location = location.map_or(String::new(), |e| format!(" ({:?})", shortened(&e.value)));
        return Err(format!(
            "weight {name:?} lies in another file{location}; export a single .onnx file without external data"
        ));
    }
    if tensor.segment.is_some() {
        return Err(format!("weight {name:?} is stored in segments, which is not supported"));
    }
    let mut shape = Vec::new();
    let mut elements = Some(1usize);
    for &dim in &tensor.dims {
        let dim = usize::try_from(dim).map_err(|_| format!("weight {name:?} has an axis of length {dim}"))?;
        elements = elements.and_then(|e| e.checked_mul(dim));
        shape.push(dim);
    }
    let kind = DataType::try_from(tensor.data_type)
        .map_err(|_| format!("weight {name:?} has the unknown type {}", tensor.data_type))?;
    let raw = &tensor.raw_data;
    let size = match kind {
        DataType::Bool | DataType::Uint8 | DataType::Int8 => 1,
        DataType::Uint16 | DataType::Int16 | DataType::Float16 => 2,
        DataType::Float | DataType::Int32 | DataType::Uint32 => 4,
        DataType::Double | DataType::Int64 | DataType::Uint64 => 8,
        other => {
            let other = other.as_str_name().to_ascii_lowercase();
            return Err(format!("weight {name:?} is of type {other}, which is not supported"));
        }
    };
    let stored = if !raw.is_empty() {
        if raw.len().is_multiple_of(size) { Some(raw.len() / size) } else { None }
    } else {
        Some(match kind {
            DataType::Float => tensor.float_data.len(),
            DataType::Double => tensor.double_data.len(),
            DataType::Int64 => tensor.int64_data.len(),
            DataType::Uint64 => tensor.int64_data.len().max(tensor.uint64_data.len()),
            _ => tensor.int32_data.len(),
        })
    };
    if stored.is_none() || stored != elements {
        return Err(format!(
            "weight {name:?} of shape {shape:?} holds {}; the file is damaged",
            if raw.is_empty() { format!("{} values", stored.unwrap_or(0)) } else { format!("{} bytes", raw.len()) }
        ));
    }
    let integer = !matches!(kind, DataType::Float | DataType::Double | DataType::Float16);
    let data = if stored.is_some_and(|n| n <= MAX_KEPT) {
        let from_raw = |size: usize, value: &dyn Fn(&[u8]) -> f64| raw.chunks_exact(size).map(value).collect();
        match kind {
            DataType::Float if raw.is_empty() => Some(tensor.float_data.iter().map(|&v| v.into()).collect()),
            DataType::Int64 if raw.is_empty() => Some(tensor.int64_data.iter().map(|&v| v as f64).collect()),
            DataType::Int32 | DataType::Bool if raw.is_empty() => {
                Some(tensor.int32_data.iter().map(|&v| v.into()).collect())
            }
            DataType::Double if raw.is_empty() => Some(tensor.double_data.clone()),
            DataType::Float => Some(from_raw(4, &|b| f32::from_le_bytes(array(b)).into())),
            DataType::Int64 => Some(from_raw(8, &|b| i64::from_le_bytes(array(b)) as f64)),
            DataType::Int32 => Some(from_raw(4, &|b| i32::from_le_bytes(array(b)).into())),
            DataType::Double => Some(from_raw(8, &|b| f64::from_le_bytes(array(b)))),
            DataType::Bool => Some(from_raw(1, &|b| b[0].into())),
            _ => None,
        }
    } else {
        None
    };
    Ok(Constant { shape, data, integer })
}

/// The bytes of a chunk, which `chunks_exact` cut to this length.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("chunks_exact gives chunks of this length")
}
