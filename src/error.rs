//! The one error type of the engine. A variant says who must act; a message says what was wrong, what was
//! expected and what to do, and holds the file or the numbers.

use std::path::{Path, PathBuf};

/// Everything that can go wrong in the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is damaged, or no TIFF at all.
    #[error("{}: {message}", path.display())]
    BadTiff {
        /// The file concerned.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A valid TIFF that mdr cannot read; the message names the tag and its value.
    #[error("{}: {message}", path.display())]
    UnsupportedTiff {
        /// The file concerned.
        path: PathBuf,
        /// The tag, its value, and what is supported.
        message: String,
    },
    /// The model file is damaged, contradicts itself, or uses what tract lacks.
    #[error("model {name}: {message}")]
    BadModel {
        /// File or name of the model.
        name: String,
        /// What is wrong with it.
        message: String,
    },
    /// Image and model, or image and buffer, do not fit each other.
    #[error("expected {expected}, found {found}")]
    ShapeMismatch {
        /// What was expected, and what to do about it.
        expected: String,
        /// What there was.
        found: String,
    },
    /// An option has a value that makes no sense here.
    #[error("{0}")]
    InvalidOption(String),
    /// The network failed while it ran.
    #[error("inference failed: {0}")]
    Inference(String),
    /// Stopped by the caller: the progress callback returned `false`.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// An [`Error::Io`] for `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_owned(), source }
    }
}

/// `std::result::Result` with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
