//! How many bytes a run takes at its peak, from the shapes that `halo` follows: which tensors are alive while each
//! operator runs, plus the scratch of convolutions, tract's and our own. An operator that works element by element
//! overwrites an input that nobody needs afterwards, as tract does. Weights are not counted: they are there once, for
//! all runs.

use super::graph::{Graph, Node};
use super::halo::{Trace, Value};
use std::collections::HashMap;

/// tract unrolls the patches of a convolution into a matrix where the kernel has fewer elements than this …
const MIN_LAZY_KERNEL: u64 = 6;
/// … and the matrix takes fewer bytes than this.
const MAX_UNROLLED_BYTES: u64 = 4 << 20;

/// Peak bytes of one run.
pub(super) fn peak_bytes(graph: &Graph, trace: &Trace) -> u64 {
    let bytes = |name: &str| match trace.values.get(name) {
        Some(value) if !graph.constants.contains_key(name) => size(value),
        _ => 0,
    };
    let mut last_use: HashMap<&str, usize> = HashMap::new();
    for (step, node) in graph.nodes.iter().enumerate() {
        for name in node.inputs.iter().chain(&node.outputs) {
            last_use.insert(name, step);
        }
    }
    // The plan holds on to its input.
    last_use.insert(&graph.input, graph.nodes.len());
    last_use.insert(&graph.output, graph.nodes.len());
    let mut dying: Vec<Vec<&str>> = vec![vec![]; graph.nodes.len()];
    for (name, &step) in &last_use {
        if let Some(names) = dying.get_mut(step) {
            names.push(name);
        }
    }
    let mut alive = bytes(&graph.input);
    let mut peak = alive;
    for (step, node) in graph.nodes.iter().enumerate() {
        let made: u64 = node.outputs.iter().map(|n| bytes(n)).sum();
        let reused = if in_place(&node.op) {
            let free = node.inputs.iter().filter(|n| dying[step].contains(&n.as_str())).map(|n| bytes(n)).max();
            free.unwrap_or(0).min(made)
        } else {
            0
        };
        peak = peak.max(alive + made - reused + scratch(node, trace));
        alive += made;
        for name in &dying[step] {
            alive = alive.saturating_sub(bytes(name));
        }
    }
    // The result is copied into the caller's vector.
    peak.max(bytes(&graph.input) + 2 * bytes(&graph.output))
}

fn size(value: &Value) -> u64 {
    value.elements().unwrap_or(0) as u64 * 4
}

fn in_place(op: &str) -> bool {
    !matches!(
        op,
        "Conv"
            | "ConvTranspose"
            | "MaxPool"
            | "AveragePool"
            | "Resize"
            | "Concat"
            | "Pad"
            | "Slice"
            | "Transpose"
            | "DepthToSpace"
            | "SpaceToDepth"
            | "Expand"
            | "Tile"
            | "MatMul"
            | "Split"
            | "Gather"
    )
}

/// What is allocated while an operator runs, beside the result; found by measuring.
fn scratch(node: &Node, trace: &Trace) -> u64 {
    let shape = |name: Option<&String>| trace.values.get(name?.as_str())?.shape.clone();
    let (Some(input), Some(output)) = (shape(node.inputs.first()), shape(node.outputs.first())) else { return 0 };
    let weight = shape(node.inputs.get(1)).unwrap_or_default();
    let product = |dims: &[usize]| dims.iter().map(|&d| d as u64).product::<u64>();
    match node.op.as_str() {
        "Conv" if weight.len() > 2 && output.len() > 2 => {
            let kernel = product(&weight[2..]);
            let unrolled = 4 * input[1] as u64 * kernel * product(&output[2..]);
            let padded = node.ints("pads").is_some_and(|p| p.iter().any(|&p| p != 0))
                || node.string("auto_pad", "").starts_with("SAME");
            let padded = if padded { size_of_shape(&input) } else { 0 };
            match kernel {
                1 => padded + unrolled / 4,
                k if k < MIN_LAZY_KERNEL => padded + unrolled.min(MAX_UNROLLED_BYTES),
                _ => padded,
            }
        }
        // Each element of the input is multiplied with the whole kernel before the products are summed up.
        "ConvTranspose" if weight.len() > 2 && input.len() > 2 => {
            4 * product(&weight[1..]) * product(&input[2..]) + size_of_shape(&input)
        }
        "MatMul" | "Gemm" => size_of_shape(&input) + size_of_shape(&weight),
        "Concat" => size_of_shape(&output),
        // One axis after the other, each into a new tensor.
        "Resize" | "Upsample" => size_of_shape(&input) + size_of_shape(&output) * 3 / 2,
        // Spelt out as differences, squares and sums.
        op if op.ends_with("Normalization") && op != "BatchNormalization" => 2 * size_of_shape(&input),
        _ => 0,
    }
}

fn size_of_shape(shape: &[usize]) -> u64 {
    4 * shape.iter().map(|&d| d as u64).product::<u64>()
}
