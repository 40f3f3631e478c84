package org.mdr.fiji;

import ij.ImagePlus;
import ij.VirtualStack;
import ij.process.ImageProcessor;
import ij.process.ShortProcessor;
import java.nio.file.Files;
import java.nio.file.Path;

/** Restores a virtual stack of 400 planes, 100 MB that become 200 MB, in a process with much less memory. */
final class LargeStack extends VirtualStack {
    private static final int SIDE = 360;
    private static final int PLANES = 400;

    private LargeStack() {
        super(SIDE, SIDE, null, null);
        setBitDepth(16);
    }

    @Override
    public int getSize() {
        return PLANES;
    }

    @Override
    public int size() {
        return PLANES;
    }

    @Override
    public String getSliceLabel(int n) {
        return null;
    }

    @Override
    public Object getPixels(int n) {
        return getProcessor(n).getPixels();
    }

    @Override
    public ImageProcessor getProcessor(int n) {
        short[] pixels = new short[SIDE * SIDE];
        for (int i = 0; i < pixels.length; i++) {
            pixels[i] = (short) (100 + n + i % 97 * (i / SIDE % 13));
        }
        return new ShortProcessor(SIDE, SIDE, pixels, null);
    }

    public static void main(String[] arguments) throws Exception {
        Path model = Files.createTempFile("mean", ".onnx");
        Files.write(model, TinyOnnx.mean3(null));
        ImagePlus source = new ImagePlus("large", new LargeStack());
        ImagePlus restored = Restore_.restore(source, "denoise", "model=[" + model + "]");
        Files.delete(model);
        float[] last = (float[]) restored.getStack().getPixels(PLANES);
        System.out.println(restored.getStack().isVirtual() + " " + restored.getStackSize() + " " + last.length);
    }
}
