//! ONNX → tract plan → run one tile. (stub: signatures)
#![allow(unused)]
use crate::Result;
use std::collections::BTreeMap;

pub mod halo;

/// An ONNX graph that runs on f32 tiles; may be used from several threads at once.
pub struct Network {}

impl Network {
    /// Parses ONNX bytes; `name` is for messages.
    pub fn from_onnx(name: &str, bytes: &[u8]) -> Result<Self> {
        todo!()
    }
    /// The file's `metadata_props`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        todo!()
    }
    /// 2 (input N, C, Y, X) or 3 (N, C, Z, Y, X).
    pub fn spatial_axes(&self) -> usize {
        todo!()
    }
    /// Channels of input and output.
    pub fn channels(&self) -> (usize, usize) {
        todo!()
    }
    /// What output pixels depend on.
    pub fn field(&self) -> &halo::Field {
        todo!()
    }
    /// The only side that the graph accepts along Z, Y, X, where it is fixed.
    pub fn fixed(&self) -> [Option<usize>; 3] {
        todo!()
    }
    /// Bytes that one run on a tile of Z, Y, X pixels needs at its peak (an estimate from the graph).
    pub fn memory_bytes(&self, tile: [usize; 3]) -> u64 {
        todo!()
    }
    /// Runs one tile: `input` in the order C, Z, Y, X with `tile` = lengths of Z, Y, X (Z is 1 for a 2-D network);
    /// result in the order C, Z, Y, X with the lengths times the scale.
    pub fn run(&self, input: &[f32], tile: [usize; 3]) -> Result<Vec<f32>> {
        todo!()
    }
}
