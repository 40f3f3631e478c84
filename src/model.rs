//! A network plus the facts needed to use it, from its metadata. (stub: signatures)
#![allow(unused)]
use crate::network::Network;
use crate::{Normalization, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a model restores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Task {
    Denoise,
    Axial,
    SuperResolve,
}

/// Facts about a model: DESIGN.md §3's table, and what the graph itself says.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Facts {
    pub name: String,
    pub task: Option<Task>,
    pub axes: String,
    pub channels: usize,
    pub scale: usize,
    pub normalization: Normalization,
    pub tile_multiple: usize,
    pub halo: Option<usize>,
    pub untileable_because: Option<String>,
    pub description: String,
    pub license: String,
    pub authors: String,
    pub trained_on: String,
    pub method: String,
    pub commit: String,
    pub metrics: Option<serde_json::Value>,
    /// `built-in`, or the path.
    pub source: String,
    /// SHA-256 of the ONNX file, lower-case hexadecimal.
    pub sha256: String,
}

/// A network and its facts.
pub struct Model {
    facts: Facts,
    network: Network,
}

impl Model {
    /// The built-in model for a task.
    pub fn builtin(task: Task) -> Result<Self> {
        todo!()
    }
    /// Loads an .onnx file or a bioimage.io package (folder, .zip, rdf.yaml).
    pub fn load(path: &Path) -> Result<Self> {
        todo!()
    }
    /// An .onnx file in memory; `name` is for messages.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self> {
        todo!()
    }
    /// The facts.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }
    /// What sides of tiles must be a multiple of, along Z, Y, X: the file's `mdr.tile_multiple` and the graph's own,
    /// their least common multiple.
    pub fn multiple(&self) -> [usize; 3] {
        todo!()
    }
    pub(crate) fn network(&self) -> &Network {
        &self.network
    }
}
