//! Planes + metadata → file: uncompressed, little-endian, one strip a page, BigTIFF where 4 GB would be exceeded.
//!
//! ```text
//! header | first directory and its values | plane 0 | plane 1 | … | the other directories
//! ```
//!
//! ImageJ takes the planes of its files as one run after the first; so the other directories come last, and nothing
//! need be known or kept while the planes arrive. All goes to a temporary file in the same folder, which gets its
//! name when it is complete.

use super::directory::tag;
use super::{imagej, ome};
use crate::image::Sample;
use crate::{Error, ImageInfo, PixelType, PlaneIndex, PlaneSink, Result};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Samples that are converted at once.
const BLOCK: usize = 1 << 14;
/// More than the bytes of a directory after the first.
const DIRECTORY_BYTES: u64 = 512;
/// Planes start at a multiple of this.
const ALIGNMENT: u64 = 16;

/// Writes planes into a temporary file beside its path; [`finish`](Self::finish) gives it its name. Dropped without
/// that, it leaves nothing behind.
pub struct TiffWriter {
    path: PathBuf,
    force: bool,
    file: BufWriter<NamedTempFile>,
    info: ImageInfo,
    big_tiff: bool,
    /// Where the samples start.
    data_start: u64,
    plane_bytes: u64,
    /// Planes written.
    written: usize,
}

impl TiffWriter {
    /// Starts a file. `info.pixel_type` is the type written; integers are rounded half away from zero and clamped, NaN
    /// becomes 0. Where `info.extra` has OME-XML the file gets it, brought up to date, and else ImageJ's description.
    /// `force` replaces a file that is there; of a link, the file that it leads to.
    ///
    /// # Errors
    /// [`Error::Io`] where `path` exists and `force` is not set or it is no file, or the folder cannot be written;
    /// [`Error::InvalidOption`] where the image has no samples or is too large for a TIFF.
    pub fn create(path: &Path, info: &ImageInfo, force: bool) -> Result<Self> {
        Self::create_limited(path, info, force, u32::MAX.into())
    }

    /// As `create`; files of more than `limit` bytes become BigTIFF.
    fn create_limited(path: &Path, info: &ImageInfo, force: bool, limit: u64) -> Result<Self> {
        if path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(Error::io(path, ErrorKind::IsADirectory.into()));
        }
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            let message = "a device, pipe or socket, which a file must not replace; choose another name";
            return Err(Error::io(path, io::Error::new(ErrorKind::InvalidInput, message)));
        }
        if !force && path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        let shape = info.shape;
        let side = |side: usize| u32::try_from(side).ok().filter(|&side| side > 0);
        let sizes = [shape.t, shape.c, shape.z, shape.y, shape.x, info.pixel_type.bytes()];
        let bytes = sizes.iter().try_fold(1u64, |bytes, &size| bytes.checked_mul(size as u64));
        let valid = side(shape.y).and(side(shape.x)).and(bytes).filter(|&bytes| bytes > 0 && bytes < 1 << 60);
        let Some(bytes) = valid else {
            return Err(Error::InvalidOption(format!("an image of {shape:?} cannot be a TIFF")));
        };
        // A link stays one, unless it leads nowhere.
        let target = if path.is_symlink() { path.canonicalize().ok() } else { None };
        let path = target.unwrap_or_else(|| path.to_owned());
        let file = temporary_file(&path)?;
        let mut writer = Self {
            file: BufWriter::new(file),
            path,
            force,
            info: info.clone(),
            big_tiff: false,
            data_start: 0,
            plane_bytes: bytes / shape.planes() as u64,
            written: 0,
        };
        writer.start(bytes, limit).map_err(|e| Error::io(&writer.path, e))?;
        Ok(writer)
    }

    /// Completes the file and gives it its name.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where planes are missing; [`Error::Io`] where the file cannot be completed, or where
    /// one of that name has appeared and may not be replaced.
    pub fn finish(mut self) -> Result<()> {
        let planes = self.info.shape.planes();
        if self.written != planes {
            return Err(Error::ShapeMismatch {
                expected: format!("{planes} planes of {:?}", self.info.shape),
                found: format!("{} written", self.written),
            });
        }
        let path = self.path.clone();
        self.write_directories().map_err(|e| Error::io(&path, e))?;
        let file = self.file.into_inner().map_err(|e| Error::io(&path, e.into_error()))?;
        let persisted = if self.force {
            file.persist(&path)
        } else {
            // Some network file systems know no renaming that refuses to replace: there, looking first must do.
            file.persist_noclobber(&path).or_else(|e| {
                let refused = e.error.kind() == ErrorKind::AlreadyExists || path.symlink_metadata().is_ok();
                if refused { Err(e) } else { e.file.persist(&path) }
            })
        };
        persisted.map(drop).map_err(|e| match e.error.kind() {
            ErrorKind::AlreadyExists => exists(&path),
            _ => Error::io(&path, e.error),
        })
    }

    /// Writes what comes before the planes.
    fn start(&mut self, data_bytes: u64, limit: u64) -> io::Result<()> {
        let values = Values::of(&self.info);
        let directories = DIRECTORY_BYTES * (self.info.shape.planes() as u64 + 1);
        self.big_tiff = data_bytes.saturating_add(values.len()).saturating_add(directories) > limit;
        let header: &[u8] = if self.big_tiff { b"II\x2b\0\x08\0\0\0\x10\0\0\0\0\0\0\0" } else { b"II\x2a\0\x08\0\0\0" };
        // The length of the directory does not depend on where the planes start.
        let start = header.len() as u64;
        let len = self.directory(0, start, Some(&values))?.len() as u64;
        self.data_start = (start + len).next_multiple_of(ALIGNMENT);
        let mut bytes = header.to_vec();
        bytes.extend(self.directory(0, start, Some(&values))?);
        bytes.resize(self.data_start as usize, 0);
        self.file.write_all(&bytes)
    }

    /// Writes the directories of all planes but the first.
    fn write_directories(&mut self) -> io::Result<()> {
        let planes = self.info.shape.planes();
        let mut offset = self.data_end();
        if planes > 1 {
            let unaligned = self.data_start + self.plane_bytes * planes as u64;
            self.file.write_all(&vec![0; (offset - unaligned) as usize])?;
        }
        for plane in 1..planes {
            let bytes = self.directory(plane, offset, None)?;
            self.file.write_all(&bytes)?;
            offset += bytes.len() as u64;
        }
        self.file.flush()
    }

    /// Where the directories after the planes start.
    fn data_end(&self) -> u64 {
        (self.data_start + self.plane_bytes * self.info.shape.planes() as u64).next_multiple_of(ALIGNMENT)
    }

    /// The directory of a plane, which will be at `offset`, and its values.
    fn directory(&self, plane: usize, offset: u64, values: Option<&Values>) -> io::Result<Vec<u8>> {
        let Self { info, big_tiff, .. } = self;
        let bits = info.pixel_type.bytes() as u16 * 8;
        let format: u16 = match info.pixel_type {
            PixelType::U8 | PixelType::U16 | PixelType::U32 => 1,
            PixelType::I8 | PixelType::I16 | PixelType::I32 => 2,
            PixelType::F32 | PixelType::F64 => 3,
        };
        let long = |value: usize| Value::Long(value as u32);
        let mut entries = vec![
            (tag::NEW_SUBFILE_TYPE, Value::Long(0)),
            (tag::IMAGE_WIDTH, long(info.shape.x)),
            (tag::IMAGE_LENGTH, long(info.shape.y)),
            (tag::BITS_PER_SAMPLE, Value::Short(bits)),
            (tag::COMPRESSION, Value::Short(1)),
            (tag::PHOTOMETRIC, Value::Short(u16::from(!self.info.extra.white_is_zero))),
        ];
        entries.extend(values.map(|values| (tag::IMAGE_DESCRIPTION, Value::Text(&values.description))));
        entries.extend([
            (tag::STRIP_OFFSETS, Value::Offset(self.data_start + plane as u64 * self.plane_bytes)),
            (tag::SAMPLES_PER_PIXEL, Value::Short(1)),
            (tag::ROWS_PER_STRIP, long(info.shape.y)),
            (tag::STRIP_BYTE_COUNTS, Value::Offset(self.plane_bytes)),
        ]);
        // ImageJ's description has the unit; OME's readers, and ImageJ with such a file, go by the tag.
        let (unit_um, unit) = if info.extra.ome_xml.is_some() { (1e4, 3) } else { (1.0, 1) };
        let resolution = |size: Option<f64>| size.and_then(|size| ratio(unit_um / size));
        let sides = match (imagej::other_grid(info), &info.extra.y_unit) {
            (Some(grid), _) if info.extra.ome_xml.is_none() => grid.pixels_per_unit.map(ratio),
            (_, &Some((pixels_per_unit, _))) => [ratio(pixels_per_unit), resolution(info.pixel_size_um)],
            _ => [info.pixel_height_um(), info.pixel_size_um].map(resolution),
        };
        if let [Some(y), Some(x)] = sides {
            entries.extend([
                (tag::X_RESOLUTION, Value::Rational(x)),
                (tag::Y_RESOLUTION, Value::Rational(y)),
                (tag::RESOLUTION_UNIT, Value::Short(unit)),
            ]);
        }
        // No Software tag: ImageJ would put it into slice labels. The version is in the provenance note.
        entries.push((tag::SAMPLE_FORMAT, Value::Short(format)));
        if let Some((counts, data)) = values.and_then(|values| values.imagej.as_ref()) {
            entries.push((tag::IMAGEJ_COUNTS, Value::Longs(counts)));
            entries.push((tag::IMAGEJ_DATA, Value::Bytes(data)));
        }

        let (count_len, entry_len, word) = if *big_tiff { (8, 20, 8) } else { (2, 12, 4) };
        let number = |bytes: &mut Vec<u8>, value: u64, len: usize| bytes.extend(&value.to_le_bytes()[..len]);
        let table_len = count_len + entries.len() * entry_len + word;
        let mut table = Vec::with_capacity(table_len);
        let mut outside = Vec::new();
        number(&mut table, entries.len() as u64, count_len);
        for (tag, value) in &entries {
            let (kind, count, mut bytes) = value.encode(*big_tiff);
            number(&mut table, (*tag).into(), 2);
            number(&mut table, kind.into(), 2);
            number(&mut table, count, word);
            if bytes.len() <= word {
                bytes.resize(word, 0);
                table.extend(bytes);
            } else {
                number(&mut table, offset + (table_len + outside.len()) as u64, word);
                outside.extend(bytes);
                outside.resize(outside.len().next_multiple_of(2), 0);
            }
        }
        let len = (table_len + outside.len()) as u64;
        // All directories but the first have the same length and follow each other.
        let next = match plane {
            _ if plane + 1 == info.shape.planes() => 0,
            0 => self.data_end(),
            _ => offset + len,
        };
        number(&mut table, next, word);
        table.extend(outside);
        Ok(table)
    }
}

impl PlaneSink for TiffWriter {
    fn write_plane(&mut self, index: PlaneIndex, samples: &[f32]) -> Result<()> {
        let shape = self.info.shape;
        let n = self.written;
        let next = PlaneIndex { t: n / (shape.c * shape.z), z: n / shape.c % shape.z, c: n % shape.c };
        if n >= shape.planes() || index != next || samples.len() != shape.plane_len() {
            return Err(Error::ShapeMismatch {
                expected: format!("plane {next:?} of {shape:?}, {} samples", shape.plane_len()),
                found: format!("plane {index:?}, {} samples", samples.len()),
            });
        }
        let mut bytes = Vec::with_capacity(BLOCK.min(samples.len()) * self.info.pixel_type.bytes());
        for block in samples.chunks(BLOCK) {
            from_f32(block, self.info.pixel_type, &mut bytes);
            self.file.write_all(&bytes).map_err(|e| Error::io(&self.path, e))?;
        }
        self.written += 1;
        Ok(())
    }
}

/// What the first directory alone has.
struct Values {
    description: String,
    imagej: Option<(Vec<u32>, Vec<u8>)>,
}

impl Values {
    fn of(info: &ImageInfo) -> Self {
        let rewritten = info.extra.ome_xml.as_ref().and_then(|text| ome::rewrite(text, info, &info.provenance));
        // The note goes into one of the two.
        let note = if rewritten.is_some() { "" } else { &info.provenance };
        let imagej = imagej::binary_metadata(info, note);
        Self { description: rewritten.unwrap_or_else(|| imagej::describe(info)), imagej }
    }

    fn len(&self) -> u64 {
        let imagej = self.imagej.as_ref().map_or(0, |(counts, data)| counts.len() * 4 + data.len());
        (self.description.len() + imagej) as u64
    }
}

/// The value of a tag.
enum Value<'a> {
    Short(u16),
    Long(u32),
    Longs(&'a [u32]),
    /// 4 bytes, or 8 in a BigTIFF.
    Offset(u64),
    Rational((u32, u32)),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl Value<'_> {
    /// TIFF's type, number of values, and bytes.
    fn encode(&self, big_tiff: bool) -> (u16, u64, Vec<u8>) {
        match *self {
            Self::Short(value) => (3, 1, value.to_le_bytes().into()),
            Self::Long(value) => (4, 1, value.to_le_bytes().into()),
            Self::Longs(values) => {
                (4, values.len() as u64, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            }
            Self::Offset(value) if big_tiff => (16, 1, value.to_le_bytes().into()),
            Self::Offset(value) => (4, 1, (value as u32).to_le_bytes().into()),
            Self::Rational((numerator, denominator)) => {
                (5, 1, [numerator.to_le_bytes(), denominator.to_le_bytes()].concat())
            }
            Self::Text(text) => (2, text.len() as u64 + 1, [text.as_bytes(), &[0]].concat()),
            Self::Bytes(bytes) => (1, bytes.len() as u64, bytes.to_vec()),
        }
    }
}

fn exists(path: &Path) -> Error {
    let message = "the file exists already; choose another name, or --force to replace it";
    Error::io(path, io::Error::new(ErrorKind::AlreadyExists, message))
}

/// A file in the folder of `path` that vanishes when dropped, with the permissions of any new file.
fn temporary_file(path: &Path) -> Result<NamedTempFile> {
    let name = path.file_name().ok_or_else(|| Error::io(path, ErrorKind::IsADirectory.into()))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        let found = if folder.exists() { "is not a folder" } else { "does not exist" };
        let message = format!("the folder {} {found}; make it first, or choose another", folder.display());
        return Err(Error::io(path, io::Error::new(ErrorKind::NotFound, message)));
    }
    let mut prefix = std::ffi::OsString::from(".");
    // File systems take names of 255 bytes, and what is added here is 16 long.
    let long = name.len() > 255 - 16;
    prefix.push(if long { "mdr".as_ref() } else { name });
    prefix.push(".partial-");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    // The message of the crate names its random file.
    builder.tempfile_in(folder).map_err(|e| match e.kind() {
        ErrorKind::Other => Error::io(path, e),
        kind => Error::io(path, kind.into()),
    })
}

/// The fraction of 32-bit numbers nearest to a positive value, by continued fraction; `None` where there is none.
fn ratio(value: f64) -> Option<(u32, u32)> {
    let max = f64::from(u32::MAX);
    let (mut before, mut last) = ((0.0, 1.0), (1.0, 0.0));
    let mut rest = value;
    for _ in 0..40 {
        let whole = rest.floor();
        let next = (whole * last.0 + before.0, whole * last.1 + before.1);
        if !(next.0 <= max && next.1 <= max) {
            break;
        }
        (before, last) = (last, next);
        let fraction = rest - whole;
        // What is left beyond the precision of the value itself is rounding.
        if (last.0 / last.1 / value - 1.0).abs() < 1e-15 || fraction == 0.0 {
            break;
        }
        rest = 1.0 / fraction;
    }
    (last.0 >= 1.0 && last.1 >= 1.0).then_some((last.0 as u32, last.1 as u32))
}

/// Converts samples to their stored form, little-endian, in place of what is in `bytes`.
fn from_f32(samples: &[f32], pixel_type: PixelType, bytes: &mut Vec<u8>) {
    macro_rules! convert {
        ($type:ty) => {{
            const LEN: usize = size_of::<$type>();
            bytes.resize(samples.len() * LEN, 0);
            for (bytes, &sample) in bytes.as_chunks_mut::<LEN>().0.iter_mut().zip(samples) {
                *bytes = <$type>::from_f32(sample).to_le_bytes();
            }
        }};
    }
    match pixel_type {
        PixelType::U8 => convert!(u8),
        PixelType::U16 => convert!(u16),
        PixelType::U32 => convert!(u32),
        PixelType::I8 => convert!(i8),
        PixelType::I16 => convert!(i16),
        PixelType::I32 => convert!(i32),
        PixelType::F32 => convert!(f32),
        PixelType::F64 => convert!(f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Image, Shape};

    #[test]
    fn ratio_is_exact_where_it_can_be() {
        assert_eq!(ratio(1.0 / 0.065), Some((200, 13)));
        assert_eq!(ratio(3.0), Some((3, 1)));
        let (numerator, denominator) = ratio(std::f64::consts::PI).unwrap();
        assert!((f64::from(numerator) / f64::from(denominator) - std::f64::consts::PI).abs() < 1e-15);
        assert_eq!([f64::INFINITY, f64::NAN, 0.0, -1.0, 1e12, 1e-12].map(ratio), [None; 6]);
    }

    #[test]
    fn big_tiff_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("big.tif");
        let info = ImageInfo::new(Shape { t: 2, c: 1, z: 3, y: 5, x: 7 }, PixelType::U16);
        let mut writer = TiffWriter::create_limited(&path, &info, false, 100).unwrap();
        let samples = (0..info.shape.len()).map(|i| i as f32).collect();
        let image = Image::new(info, samples).unwrap();
        for t in 0..2 {
            for z in 0..3 {
                let index = PlaneIndex { t, c: 0, z };
                writer.write_plane(index, image.plane(index)).unwrap();
            }
        }
        writer.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[..4], *b"II\x2b\0");
        assert_eq!(super::super::read_tiff(&path).unwrap().samples, image.samples);
    }

    #[test]
    fn more_than_4_gb_becomes_big_tiff() {
        let folder = tempfile::tempdir().unwrap();
        let big = |side| {
            let info = ImageInfo::new(Shape::plane(side, side), PixelType::F32);
            TiffWriter::create(&folder.path().join("a.tif"), &info, false).unwrap().big_tiff
        };
        assert!(!big(32_000));
        assert!(big(33_000));
    }
}
