package org.mdr.fiji;

import java.util.List;
import java.util.Map;
import java.util.concurrent.locks.ReentrantReadWriteLock;
import java.util.function.LongFunction;

/**
 * A loaded model, the whole API without ImageJ.
 *
 * <pre>{@code
 * try (MdrModel model = MdrModel.builtIn("denoise")) {
 *     float[] restored = new float[height * width];
 *     model.restore(noisy, "YX", new long[] {height, width}, "{}", null, restored);
 * }
 * }</pre>
 *
 * Several threads may use one model at the same time; {@link #close} waits for them. Axes are letters out of TCZYX,
 * slowest first; options are a JSON object as mdr.h describes it, "{}" being right for nearly all. Whatever fails
 * throws {@link MdrException}.
 */
public final class MdrModel implements AutoCloseable {
    private final ReentrantReadWriteLock lock = new ReentrantReadWriteLock();
    private long handle;

    private MdrModel(long handle) {
        this.handle = handle;
    }

    /** The built-in model for a task: denoise, axial or super-resolve. */
    public static MdrModel builtIn(String task) {
        Libraries.load();
        return new MdrModel(MdrNative.modelBuiltin(task));
    }

    /** A model from an .onnx file or a bioimage.io package (a folder, its rdf.yaml, or a .zip). */
    public static MdrModel load(String path) {
        Libraries.load();
        return new MdrModel(MdrNative.modelLoad(path));
    }

    /** A model from the content of an .onnx file; messages call it {@code name}. */
    public static MdrModel fromBytes(String name, byte[] onnx) {
        Libraries.load();
        return new MdrModel(MdrNative.modelFromMemory(name, onnx));
    }

    /** Facts about the models that need no file, one map each. */
    @SuppressWarnings("unchecked")
    public static List<Map<String, Object>> builtInModels() {
        Libraries.load();
        return (List<Map<String, Object>>) Json.parse(MdrNative.builtinModels());
    }

    /** Version of libmdr. */
    public static String version() {
        Libraries.load();
        return MdrNative.version();
    }

    /** Facts about this model: name, task, scale, licence and more; JSON's types as Java has them. */
    @SuppressWarnings("unchecked")
    public Map<String, Object> facts() {
        return (Map<String, Object>) Json.parse(call(MdrNative::modelFacts));
    }

    /** Length of each axis of the result. */
    public long[] outputShape(String axes, long[] shape, String options) {
        return call(model -> MdrNative.outputShape(model, axes, shape, options));
    }

    /** What the result will be: axes, shape, pixel_size_um, z_step_um, provenance, caution. */
    @SuppressWarnings("unchecked")
    public Map<String, Object> outputInfo(String axes, long[] shape, String options) {
        return (Map<String, Object>) Json.parse(call(model -> MdrNative.outputInfo(model, axes, shape, options)));
    }

    /**
     * Restores an image that is one array.
     *
     * @param input byte[], short[] (both unsigned) or float[], without gaps
     * @param progress may be null
     * @param output byte[], short[] or float[] with room for exactly the product of {@link #outputShape}; integers are
     *     rounded and clamped
     */
    public void restore(
            Object input, String axes, long[] shape, String options, Progress progress, Object output) {
        call(model -> {
            MdrNative.restore(model, input, axes, shape, options, progress, output);
            return null;
        });
    }

    /**
     * Restores an image plane by plane, which need not be in memory as a whole. The pixels are those of
     * {@link #restore}.
     *
     * @param source is asked for each plane several times
     * @param progress may be null
     * @param sink gets each plane of the result once, in the order T, Z, C, C running fastest
     */
    public void restorePlanes(
            PlaneSource source,
            PixelType inputType,
            String axes,
            long[] shape,
            String options,
            Progress progress,
            PlaneSink sink,
            PixelType outputType) {
        call(model -> {
            MdrNative.restorePlanes(
                    model, source, inputType.number(), axes, shape, options, progress, sink, outputType.number());
            return null;
        });
    }

    /**
     * The statistics by which an image is normalised, as JSON: given as the option "fitted", they let a part of the
     * image be restored as the whole would be.
     */
    public String fitPlanes(PlaneSource source, PixelType inputType, String axes, long[] shape, String options) {
        return call(model -> MdrNative.fitPlanes(model, source, inputType.number(), axes, shape, options));
    }

    /**
     * Frees the model, once nobody is using it any more; a second time does nothing.
     *
     * @throws IllegalStateException in a function that the model has called, which would wait for itself
     */
    @Override
    public void close() {
        if (lock.getReadHoldCount() > 0) {
            throw new IllegalStateException("a function that the model has called would wait for itself to close it");
        }
        lock.writeLock().lock();
        try {
            long model = handle;
            handle = 0;
            if (model != 0) {
                MdrNative.modelFree(model);
            }
        } finally {
            lock.writeLock().unlock();
        }
    }

    private <T> T call(LongFunction<T> function) {
        lock.readLock().lock();
        try {
            if (handle == 0) {
                throw new MdrException(MdrException.INVALID_ARGUMENT, "the model has been closed");
            }
            return function.apply(handle);
        } finally {
            lock.readLock().unlock();
        }
    }
}
