//! bioimage.io packages → `Model`. (being written)

use crate::{Error, Model, Result};
use std::path::Path;

pub(crate) fn load(path: &Path) -> Result<Model> {
    Err(Error::BadModel { name: path.display().to_string(), message: "bioimage.io packages are not read yet".into() })
}
