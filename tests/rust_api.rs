//! The contract through the Rust API. The Rust API takes images in the engine's axis order; the permutation from
//! and to the caller's order is done here sample by sample, as the oracle for the C interface's.

mod common;

use common::contract::{Binding, Failure, Request, Samples, Type, positions};
use mdr::image::Sample;
use mdr::restore::{caution, output_info, restore};
use mdr::{Axes, Error, Image, ImageInfo, Model, PixelType, RestoreOptions, Shape};
use serde_json::{Value, json};
use std::path::Path;

struct RustApi;

fn failure(error: Error) -> Failure {
    let status = match error {
        Error::Io { .. } => "Io",
        Error::BadModel { .. } => "BadModel",
        Error::ShapeMismatch { .. } => "ShapeMismatch",
        Error::InvalidOption(_) => "InvalidOption",
        Error::Inference(_) => "Inference",
        Error::Cancelled => "Cancelled",
        _ => "unexpected",
    };
    Failure { status, message: error.to_string() }
}

fn options(request: &Request) -> Result<RestoreOptions, Failure> {
    serde_json::from_str(request.options.unwrap_or("{}"))
        .map_err(|error| failure(Error::InvalidOption(format!("options: {error}"))))
}

fn info(request: &Request) -> ImageInfo {
    let axes = request.axes.to_ascii_uppercase();
    let axis = |letter| axes.find(letter).map_or(1, |i| request.shape[i]);
    let shape = Shape { t: axis('T'), c: axis('C'), z: axis('Z'), y: axis('Y'), x: axis('X') };
    let sorted: String = "TCZYX".chars().filter(|&c| axes.contains(c)).collect();
    ImageInfo { axes: Axes::parse(&sorted).expect("axes"), ..ImageInfo::new(shape, PixelType::F32) }
}

/// Lengths of the axes of `request` in `shape`.
fn lengths(request: &Request, shape: Shape) -> Vec<usize> {
    request.axes.to_ascii_uppercase().chars().map(|letter| shape.axis(letter)).collect()
}

/// Index in the engine's order T, C, Z, Y, X of a position in the order of the request.
fn engine_index(request: &Request, shape: Shape, position: &[usize]) -> usize {
    let axes = request.axes.to_ascii_uppercase();
    "TCZYX".chars().fold(0, |index, letter| index * shape.axis(letter) + axes.find(letter).map_or(0, |i| position[i]))
}

impl Binding for RustApi {
    type Model = Model;

    fn load(&self, path: &Path) -> Result<Model, Failure> {
        Model::load(path).map_err(failure)
    }

    fn load_bytes(&self, name: &str, bytes: &[u8]) -> Result<Model, Failure> {
        Model::from_bytes(name, bytes).map_err(failure)
    }

    fn builtin(&self, task: &str) -> Result<Model, Failure> {
        task.parse().and_then(Model::builtin).map_err(failure)
    }

    fn facts(&self, model: &Model) -> Value {
        serde_json::to_value(model.facts()).expect("facts are JSON")
    }

    fn output_info(&self, model: &Model, request: &Request) -> Result<Value, Failure> {
        let (input, options) = (info(request), options(request)?);
        let result = output_info(model, &input, &options).map_err(failure)?;
        Ok(json!({
            "axes": request.axes,
            "shape": lengths(request, result.shape),
            "pixel_size_um": result.pixel_size_um,
            "z_step_um": result.z_step_um,
            "provenance": result.provenance,
            "caution": caution(model, &input, &options),
        }))
    }

    fn restore(
        &self,
        model: &Model,
        request: &Request,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Samples, Failure> {
        let mut image = Image::zeros(info(request)).unwrap();
        for (position, sample) in positions(&request.shape).iter().zip(request.gathered().to_f32()) {
            image.samples[engine_index(request, image.info.shape, position)] = sample;
        }
        let result = restore(model, &image, &options(request)?, &mut |p| progress(p.done, p.total)).map_err(failure)?;
        let shape = result.info.shape;
        let samples: Vec<f32> = positions(&lengths(request, shape))
            .iter()
            .map(|position| result.samples[engine_index(request, shape, position)])
            .collect();
        Ok(match request.output {
            Type::U8 => Samples::U8(samples.iter().map(|&s| Sample::from_f32(s)).collect()),
            Type::U16 => Samples::U16(samples.iter().map(|&s| Sample::from_f32(s)).collect()),
            Type::F32 => Samples::F32(samples),
        })
    }
}

contract!(RustApi);
