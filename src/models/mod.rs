//! The models that are compiled into the engine, at most one for each task, so that nothing need be downloaded.

use crate::Task;

/// Built-in models: task and ONNX file, the latter written by `mdr-train` from `training/configs/TASK.toml`.
const BUILTIN: [(Task, &[u8]); 3] = [
    (Task::Denoise, include_bytes!("denoise.onnx")),
    (Task::Axial, include_bytes!("axial.onnx")),
    (Task::SuperResolve, include_bytes!("super-resolve.onnx")),
];

/// The built-in ONNX file for a task.
pub fn builtin(task: Task) -> Option<&'static [u8]> {
    BUILTIN.iter().find(|(t, _)| *t == task).map(|(_, bytes)| *bytes)
}

/// Tasks that have a built-in model.
pub fn tasks() -> impl Iterator<Item = Task> {
    BUILTIN.iter().map(|(task, _)| *task)
}
