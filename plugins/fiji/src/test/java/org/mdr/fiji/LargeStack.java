package org.mdr.fiji;

import ij.IJ;
import ij.ImagePlus;
import ij.ImageStack;
import ij.VirtualStack;
import ij.io.FileSaver;
import ij.process.ImageProcessor;
import ij.process.ShortProcessor;
import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * Restores 400 planes, 100 MB that become 200 MB, in a process with less memory: as a virtual stack; with one argument as
 * an ordinary one. With two, a file of 15 MB that becomes 60 MB, in a folder that is the second.
 */
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
        model.toFile().deleteOnExit();
        String options = "model=[" + model + "]";
        ImageStack stack = new LargeStack();
        switch (arguments.length) {
            case 0:
                ImagePlus restored = Restore_.restore(new ImagePlus("large", stack), "denoise", options);
                float[] last = (float[]) restored.getStack().getPixels(PLANES);
                System.out.println(restored.getStack().isVirtual() + " " + restored.getStackSize() + " " + last.length);
                break;
            case 1:
                ImageStack copy = new ImageStack(SIDE, SIDE);
                for (int n = 1; n <= PLANES; n++) {
                    copy.addSlice(stack.getProcessor(n));
                }
                try {
                    System.out.println(Restore_.restore(new ImagePlus("large", copy), "denoise", options));
                } catch (MdrException failure) {
                    System.out.println(failure.getMessage());
                }
                break;
            default:
                File in = new File(arguments[1], "in");
                Files.createDirectories(in.toPath());
                new FileSaver(IJ.createImage("large", "8-bit ramp", 1000, 1000, 15)).saveAsTiff(in + "/large.tif");
                String done = RestoreFolder_.apply(
                        "input=[" + in + "] output=[" + new File(arguments[1], "out") + "] " + options);
                System.out.println(done + " restored, " + Samples.planeFiles().size() + " temporary files");
        }
    }
}
