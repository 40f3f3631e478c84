//! Model file → the weights that a run begins with. Built-in models and exported U-Nets hold their variables under the
//! names they have in training, so that the file is all that is needed; the shape of the network is read off them.

use crate::config;
use crate::methods::State;
use anyhow::{Context, Result, bail, ensure};
use mdr::Task;
use prost::Message;
use std::collections::BTreeMap;
use std::path::Path;
use tch::Tensor;
use tract_onnx::pb::{ModelProto, TensorProto, tensor_proto::DataType};

/// Weights of a U-Net and its shape.
#[derive(Debug)]
pub struct Base {
    /// By variable name.
    pub weights: State,
    /// As in a config.
    pub net: config::Net,
    /// Its `mdr.*` entries, without that prefix.
    pub facts: BTreeMap<String, String>,
}

/// Reads a base: the name of a task (its built-in model), a .onnx file, or a run folder with its model.onnx.
///
/// # Errors
/// Where there is no such model, or it is not a U-Net of this trainer.
pub fn read(base: &str) -> Result<Base> {
    let path = Path::new(base);
    let bytes = match base.parse::<Task>() {
        Ok(task) => mdr::models::builtin(task).with_context(|| format!("there is no built-in {task} model"))?.to_vec(),
        Err(_) => {
            let file = if path.is_dir() { path.join("model.onnx") } else { path.to_owned() };
            std::fs::read(&file).with_context(|| format!("base {}", file.display()))?
        }
    };
    parse(&bytes).with_context(|| format!("base {base}: not a U-Net that mdr-train exported for one task"))
}

fn parse(bytes: &[u8]) -> Result<Base> {
    let model = ModelProto::decode(bytes)?;
    let entries = model.metadata_props.into_iter();
    let facts = entries.filter_map(|entry| Some((entry.key.strip_prefix("mdr.")?.to_owned(), entry.value))).collect();
    let graph = model.graph.context("no graph")?;
    let tensors = graph.initializer.iter().filter(|tensor| !tensor.name.ends_with(".scales"));
    let weights: State = tensors.map(|tensor| Ok((tensor.name.clone(), values(tensor)?))).collect::<Result<_>>()?;
    let depth = (0..7).take_while(|level| weights.contains_key(&format!("down_level_{level}_no_0.weight"))).count();
    let first = weights.get("down_level_0_no_0.weight").context("no layer down_level_0_no_0")?.size();
    let &[features, 1, kernel, _] = &first[..] else { bail!("its first layer has shape {first:?}") };
    let middle = weights.get("middle_0.weight").context("no layer middle_0")?.size()[0];
    let widest = (middle < features << depth).then_some(middle as usize);
    let residual = graph.node.last().is_some_and(|node| node.op_type == "Add");
    let net = config::Net { depth, features: features as usize, widest, kernel: kernel as usize, residual };
    Ok(Base { weights, net, facts })
}

fn values(tensor: &TensorProto) -> Result<Tensor> {
    ensure!(tensor.data_type == DataType::Float as i32, "{} is not float32", tensor.name);
    let count = tensor.dims.iter().product::<i64>();
    let raw = tensor.raw_data.as_chunks::<4>().0;
    ensure!(tensor.dims.iter().all(|&side| side > 0) && raw.len() as i64 == count, "{} is incomplete", tensor.name);
    let values: Vec<f32> = raw.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    Ok(Tensor::from_slice(&values).reshape(&tensor.dims))
}
