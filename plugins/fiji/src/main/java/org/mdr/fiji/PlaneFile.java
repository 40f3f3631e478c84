package org.mdr.fiji;

import ij.ImageStack;
import ij.VirtualStack;
import ij.process.ByteProcessor;
import ij.process.FloatProcessor;
import ij.process.ImageProcessor;
import ij.process.ShortProcessor;
import java.io.File;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.ByteBuffer;

/**
 * The result of a virtual stack: planes in a temporary file, one of them in memory at a time. The file goes by
 * {@link #close}, or with the stack, at the latest when ImageJ ends. That the image is closed is no reason: another one
 * may have its stack by then, as after Image ▸ Color ▸ Make Composite. No FileChannel, which a preview that is interrupted
 * would close.
 */
final class PlaneFile extends VirtualStack {
    private final PixelType type;
    private final int size;
    private final String[] labels;
    private final File path;
    private final RandomAccessFile file;

    PlaneFile(int width, int height, int size, PixelType type) {
        super(width, height, null, null);
        this.type = type;
        this.size = size;
        labels = new String[size];
        setBitDepth(type.bytes() * 8);
        try {
            path = File.createTempFile("mdr", ".planes");
            file = new RandomAccessFile(path, "rw");
            // At once where the system allows that for an open file.
            if (!path.delete()) {
                path.deleteOnExit();
            }
        } catch (IOException error) {
            throw failed(error);
        }
    }

    /** Frees the space of a stack that nobody will read any more, where it is one of these. */
    static void close(ImageStack stack) {
        if (stack instanceof PlaneFile) {
            ((PlaneFile) stack).close();
        }
    }

    private void close() {
        try {
            file.close();
        } catch (IOException error) {
            // Then it stays until ImageJ ends.
        }
        path.delete();
    }

    private static MdrException failed(IOException error) {
        String folder = System.getProperty("java.io.tmpdir");
        return new MdrException(MdrException.IO, "planes of the result, in " + folder + ": " + error, error);
    }

    private ByteBuffer buffer() {
        return ByteBuffer.allocate(Math.multiplyExact(getWidth() * getHeight(), type.bytes()));
    }

    private long position(int n) {
        if (n < 1 || n > size) {
            throw new IllegalArgumentException("plane " + n + " of " + size);
        }
        return (n - 1L) * getWidth() * getHeight() * type.bytes();
    }

    /** Writes plane {@code n}, from 1. */
    @Override
    public void setPixels(Object pixels, int n) {
        ByteBuffer buffer = buffer();
        switch (type) {
            case U8:
                buffer.put((byte[]) pixels);
                break;
            case U16:
                buffer.asShortBuffer().put((short[]) pixels);
                break;
            default:
                buffer.asFloatBuffer().put((float[]) pixels);
        }
        long at = position(n);
        synchronized (file) {
            try {
                file.seek(at);
                file.write(buffer.array());
            } catch (IOException error) {
                throw failed(error);
            }
        }
    }

    @Override
    public Object getPixels(int n) {
        ByteBuffer buffer = buffer();
        long at = position(n);
        synchronized (file) {
            try {
                file.seek(at);
                file.readFully(buffer.array());
            } catch (IOException error) {
                throw failed(error);
            }
        }
        Object pixels = type.allocate(getWidth() * getHeight());
        switch (type) {
            case U8:
                buffer.get((byte[]) pixels);
                break;
            case U16:
                buffer.asShortBuffer().get((short[]) pixels);
                break;
            default:
                buffer.asFloatBuffer().get((float[]) pixels);
        }
        return pixels;
    }

    @Override
    public ImageProcessor getProcessor(int n) {
        Object pixels = getPixels(n);
        ImageProcessor ip;
        switch (type) {
            case U8:
                ip = new ByteProcessor(getWidth(), getHeight(), (byte[]) pixels, getColorModel());
                break;
            case U16:
                ip = new ShortProcessor(getWidth(), getHeight(), (short[]) pixels, getColorModel());
                break;
            default:
                ip = new FloatProcessor(getWidth(), getHeight(), (float[]) pixels, getColorModel());
        }
        ip.setSliceNumber(n);
        return ip;
    }

    @Override
    public int getSize() {
        return size;
    }

    @Override
    public int size() {
        return size;
    }

    @Override
    public String getSliceLabel(int n) {
        return labels[n - 1];
    }

    @Override
    public void setSliceLabel(String label, int n) {
        labels[n - 1] = label;
    }

    @Override
    public void deleteSlice(int n) {
        throw new UnsupportedOperationException("duplicate the stack first (Image > Duplicate...)");
    }

    @Override
    @SuppressWarnings({"deprecation", "removal"})
    protected void finalize() throws Throwable {
        close();
        super.finalize();
    }
}
