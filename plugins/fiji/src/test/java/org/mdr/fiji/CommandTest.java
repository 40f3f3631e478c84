package org.mdr.fiji;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTimeoutPreemptively;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ij.CompositeImage;
import ij.IJ;
import ij.ImagePlus;
import ij.WindowManager;
import ij.gui.Overlay;
import ij.gui.Roi;
import ij.io.FileSaver;
import ij.macro.Interpreter;
import ij.measure.Calibration;
import java.awt.Rectangle;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.time.Duration;
import java.util.Arrays;
import java.util.Set;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** The commands in ImageJ without a display, against {@code mdr restore} of the same image. */
class CommandTest {
    private static final String BUILT_IN = "model=[built-in] tile=auto";

    @TempDir
    Path folder;

    @BeforeEach
    void imageJ() throws Exception {
        Samples.registerCommands();
        Interpreter.batchMode = true;
    }

    @AfterEach
    void closeAll() {
        Interpreter.batchMode = true;
        int[] ids = WindowManager.getIDList();
        for (int i = 0; ids != null && i < ids.length; i++) {
            WindowManager.getImage(ids[i]).close();
        }
        Interpreter.batchMode = false;
        WindowManager.setTempCurrentImage(null);
    }

    /** Runs a command as a script does. */
    private static ImagePlus run(ImagePlus imp, String command, String options) {
        IJ.run(imp, command, options);
        int[] ids = WindowManager.getIDList();
        ImagePlus result = WindowManager.getImage(ids[ids.length - 1]);
        assertNotSame(imp, result);
        return result;
    }

    private String model(String name, byte[] onnx) throws Exception {
        return Files.write(folder.resolve(name), onnx).toString();
    }

    @ParameterizedTest
    @CsvSource({"8,1,1,1", "16,1,1,1", "32,1,1,1", "8,1,3,1", "16,2,1,1", "16,2,2,2", "32,1,2,3"})
    void pixelsAreThoseOfTheCommandLine(int bits, int c, int z, int t) throws Exception {
        ImagePlus imp = Samples.image("sample.tif", bits, 70, 50, c, z, t);
        ImagePlus expected = Samples.commandLine(folder, imp);
        ImagePlus restored = run(imp, "Denoise...", BUILT_IN);
        assertTrue(Samples.same(expected, restored));
        assertFalse(Samples.same(imp, restored));
        assertArrayEquals(imp.getDimensions(), restored.getDimensions());
        assertEquals(32, restored.getBitDepth());
        assertEquals("sample-denoise.tif", restored.getTitle());
    }

    @ParameterizedTest
    @ValueSource(strings = {"denoise", "axial", "super-resolve"})
    void eachBuiltInModelGivesThePixelsOfTheCommandLine(String task) throws Exception {
        ImagePlus imp = Samples.image("task.tif", 16, 90, 70, 1, 4, 1);
        imp.getCalibration().setUnit("micron");
        imp.getCalibration().pixelWidth = imp.getCalibration().pixelHeight = 0.5;
        imp.getCalibration().pixelDepth = 1.25;
        ImagePlus restored = run(imp, Restore_.command(task), BUILT_IN);
        assertTrue(Samples.same(Samples.commandLine(folder, imp, "--task", task), restored));
        assertFalse(Samples.same(imp, restored));
    }

    @ParameterizedTest
    @ValueSource(ints = {8, 16, 32})
    void keepGivesTheTypeOfTheSource(int bits) throws Exception {
        ImagePlus imp = Samples.image("keep.tif", bits, 64, 48, 1, 2, 1);
        ImagePlus restored = run(imp, "Denoise...", "model=[built-in] keep");
        assertEquals(bits, restored.getBitDepth());
        assertTrue(Samples.same(Samples.commandLine(folder, imp, "--dtype", "same"), restored));
    }

    @Test
    void oneChannelAndTiles() throws Exception {
        ImagePlus imp = Samples.image("c.tif", 16, 90, 80, 3, 2, 1);
        String options = "model=built-in channel=2 tile=64 overlap=8 memory=300 ensemble";
        ImagePlus restored = run(imp, "Denoise...", options);
        assertEquals(1, restored.getNChannels());
        ImagePlus expected = Samples.commandLine(
                folder, imp, "--channel", "1", "--tile", "64", "--overlap", "8", "--memory-limit", "300",
                "--self-ensemble");
        assertTrue(Samples.same(expected, restored));
        assertTrue(restored.getStack().getSliceLabel(2).startsWith("plane 4"));
    }

    @Test
    void planesThatAreShown() throws Exception {
        ImagePlus imp = Samples.image("p.tif", 16, 60, 40, 2, 3, 2);
        imp.setPositionWithoutUpdate(1, 2, 2);
        ImagePlus plane = run(imp, "Denoise...", "planes=[current plane]");
        assertArrayEquals(new int[] {60, 40, 2, 1, 1}, plane.getDimensions());
        ImagePlus expected = new ij.plugin.Duplicator().run(imp, 1, 2, 2, 2, 2, 2);
        assertTrue(Samples.same(Samples.commandLine(folder, expected), plane));
        ImagePlus stack = run(imp, "Denoise...", "planes=[current stack]");
        assertArrayEquals(new int[] {60, 40, 2, 3, 1}, stack.getDimensions());
        expected = new ij.plugin.Duplicator().run(imp, 1, 2, 1, 3, 2, 2);
        assertTrue(Samples.same(Samples.commandLine(folder, expected), stack));
    }

    @Test
    void virtualStacksStayVirtual() throws Exception {
        ImagePlus imp = Samples.image("v.tif", 16, 64, 48, 1, 5, 1);
        String path = folder.resolve("v.tif").toString();
        new FileSaver(imp).saveAsTiff(path);
        ImagePlus opened = IJ.openVirtual(path);
        assertTrue(opened.getStack().isVirtual());
        ImagePlus restored = run(opened, "Denoise...", BUILT_IN);
        assertTrue(restored.getStack().isVirtual());
        assertTrue(Samples.same(Samples.commandLine(folder, imp), restored));
        assertTrue(Samples.same(run(opened, "Denoise...", "keep"), run(imp, "Denoise...", "keep")));
    }

    @Test
    void aVirtualStackThatIsCancelledLeavesNoFile() throws Exception {
        String path = folder.resolve("v.tif").toString();
        new FileSaver(Samples.image("v.tif", 16, 64, 48, 1, 5, 1)).saveAsTiff(path);
        ImagePlus opened = IJ.openVirtual(path);
        Set<String> before = Samples.planeFiles();
        MdrException cancelled = assertThrows(
                MdrException.class,
                () -> Restore_.restore(opened, "denoise", new RestoreOptions(), (done, total) -> {
                    assertFalse(before.containsAll(Samples.planeFiles()));
                    return false;
                }));
        assertEquals(MdrException.CANCELLED, cancelled.status());
        assertTrue(before.containsAll(Samples.planeFiles()));
    }

    @Test
    void whatBelongsToTheImageIsKept() {
        ImagePlus imp = Samples.image("m.tif", 16, 64, 48, 2, 2, 2);
        Calibration calibration = imp.getCalibration();
        calibration.setUnit("micron");
        calibration.pixelWidth = calibration.pixelHeight = 0.25;
        calibration.pixelDepth = 0.75;
        calibration.frameInterval = 1.5;
        imp.setProperty("Info", "objective: 60x\n");
        imp.setRoi(new Roi(5, 6, 20, 10));
        imp.setOverlay(new Overlay(new Roi(1, 2, 3, 4)));
        ((CompositeImage) imp).setMode(IJ.COLOR);
        imp.setC(1);
        imp.setDisplayRange(100, 5000);
        ImagePlus restored = run(imp, "Denoise...", BUILT_IN);
        assertTrue(restored.getCalibration().equals(calibration));
        assertEquals(1.5, restored.getCalibration().frameInterval);
        assertTrue(restored.isComposite() && ((CompositeImage) restored).getMode() == IJ.COLOR);
        assertTrue(restored.isHyperStack());
        for (int c = 1; c <= 2; c++) {
            assertEquals(
                    ((CompositeImage) imp).getChannelLut(c).toString(),
                    ((CompositeImage) restored).getChannelLut(c).toString());
        }
        assertEquals(100, ((CompositeImage) restored).getChannelLut(1).min);
        assertEquals(5000, ((CompositeImage) restored).getChannelLut(1).max);
        assertEquals("plane 5", restored.getStack().getSliceLabel(6));
        assertEquals(new Rectangle(5, 6, 20, 10), restored.getRoi().getBounds());
        assertEquals(1, restored.getOverlay().size());
        String info = (String) restored.getProperty("Info");
        assertTrue(info.startsWith("objective: 60x\n") && info.contains("\"model\":\"mdr denoise\""), info);
        assertEquals("objective: 60x\n", imp.getProperty("Info"));
        assertFalse(imp.isLocked());
    }

    /** To an image that is no stack ImageJ gives a label that is its Info again. */
    @Test
    void infoOfASingleImageDoesNotBecomeALabel() {
        ImagePlus imp = new ImagePlus("i.tif", Samples.image("", 8, 32, 32, 1, 1, 1).getProcessor());
        imp.setProperty("Info", "objective: 60x\n");
        assertEquals(null, run(imp, "Denoise...", BUILT_IN).getStack().getSliceLabel(1));
        ImagePlus labelled = Samples.image("l.tif", 8, 32, 32, 1, 1, 1);
        labelled.setProperty("Info", "objective: 60x\n");
        assertEquals("plane 0", run(labelled, "Denoise...", BUILT_IN).getStack().getSliceLabel(1));
    }

    /** Parts of the overlay that belong to a plane go where the plane goes, or stay away with it. */
    @Test
    void overlaysFollowTheirPlanes() {
        ImagePlus imp = Samples.image("o.tif", 8, 32, 32, 2, 3, 2);
        Roi[] rois = new Roi[6];
        for (int i = 0; i < rois.length; i++) {
            rois[i] = new Roi(i, 2, 3, 4);
        }
        rois[1].setPosition(2, 2, 2);
        rois[2].setPosition(1, 2, 2);
        rois[3].setPosition(0, 3, 0);
        rois[4].setPosition(imp.getStackIndex(2, 2, 2));
        rois[5].setPosition(0, 0, 1);
        Overlay overlay = new Overlay();
        for (Roi roi : rois) {
            overlay.add(roi);
        }
        imp.setOverlay(overlay);
        imp.setPositionWithoutUpdate(2, 2, 2);
        Overlay plane = run(imp, "Denoise...", "channel=2 planes=[current plane]").getOverlay();
        assertEquals("0: 0, 1: 1 1 1, 4: 1", where(plane));
        assertEquals(
                "0: 0, 1: 2 2 1, 2: 1 2 1, 3: 0 3 0, 4: 4",
                where(run(imp, "Denoise...", "planes=[current stack]").getOverlay()));
        assertEquals(where(overlay), where(run(imp, "Denoise...", BUILT_IN).getOverlay()));
    }

    private static String where(Overlay overlay) {
        return java.util.Arrays.stream(overlay.toArray())
                .map(roi -> (int) roi.getXBase() + ": " + (roi.hasHyperStackPosition()
                        ? roi.getCPosition() + " " + roi.getZPosition() + " " + roi.getTPosition()
                        : "" + roi.getPosition()))
                .collect(java.util.stream.Collectors.joining(", "));
    }

    @Test
    void aModelWithScaleChangesPixelSizeSelectionAndOverlay() throws Exception {
        String model = model("twice as fine.onnx", TinyOnnx.upsample2(null));
        ImagePlus imp = Samples.image("s.tif", 16, 30, 20, 1, 2, 1);
        imp.getCalibration().setUnit("micron");
        imp.getCalibration().pixelWidth = imp.getCalibration().pixelHeight = 0.5;
        imp.setRoi(new Roi(5, 6, 10, 8));
        imp.setOverlay(new Overlay(new Roi(1, 2, 3, 4)));
        ImagePlus restored = run(imp, "Super-resolve...", "model=[" + model + "]");
        assertArrayEquals(new int[] {60, 40, 1, 2, 1}, restored.getDimensions());
        assertEquals(0.25, restored.getCalibration().pixelWidth);
        assertEquals(new Rectangle(10, 12, 20, 16), restored.getRoi().getBounds());
        assertEquals(new Rectangle(2, 4, 6, 8), restored.getOverlay().get(0).getBounds());
        assertTrue(Samples.same(
                Samples.commandLine(folder, imp, "--model", model, "--task", "super-resolve"), restored));
    }

    @Test
    void aModelThatHasChangedIsReadAgain() throws Exception {
        ImagePlus imp = Samples.image("s.tif", 16, 30, 20, 1, 1, 1);
        String options = "model=[" + model("one.onnx", TinyOnnx.mean3(null)) + "]";
        assertEquals(30, run(imp, "Denoise...", options).getWidth());
        model("one.onnx", TinyOnnx.upsample2(null));
        assertEquals(60, run(imp, "Denoise...", options).getWidth());
        // More than stay open.
        for (int i = 0; i < 5; i++) {
            String other = model("other" + i + ".onnx", TinyOnnx.mean3(null));
            assertEquals(30, run(imp, "Denoise...", "model=[" + other + "]").getWidth());
        }
        assertEquals(60, run(imp, "Denoise...", options).getWidth());
    }

    @Test
    void axialMakesVoxelsIsotropic() throws Exception {
        String model = model("axial.onnx", TinyOnnx.mean3("axial"));
        ImagePlus imp = Samples.image("a.tif", 16, 40, 30, 1, 5, 1);
        MdrException lacking = assertThrows(
                MdrException.class, () -> run(imp, "Axial...", "model=[" + model + "]"));
        assertTrue(lacking.getMessage().contains("Image > Properties"), lacking.getMessage());
        imp.getCalibration().setUnit("micron");
        imp.getCalibration().pixelWidth = imp.getCalibration().pixelHeight = 0.2;
        imp.getCalibration().pixelDepth = 0.5;
        ImagePlus restored = run(imp, "Axial...", "model=[" + model + "]");
        assertArrayEquals(new int[] {40, 30, 1, 11, 1}, restored.getDimensions());
        assertEquals(0.2, restored.getCalibration().pixelDepth, 1e-12);
        assertTrue(Samples.same(Samples.commandLine(folder, imp, "--model", model), restored));
    }

    @Test
    void stepsThatAModelDoesNotKnowAreNamed() {
        ImagePlus imp = Samples.image("deep.tif", 16, 40, 30, 1, 3, 1);
        imp.getCalibration().setUnit("micron");
        imp.getCalibration().pixelWidth = imp.getCalibration().pixelHeight = 0.2;
        imp.getCalibration().pixelDepth = 2;
        // Without a display ImageJ's log is the standard output.
        java.io.ByteArrayOutputStream log = new java.io.ByteArrayOutputStream();
        java.io.PrintStream before = System.out;
        System.setOut(new java.io.PrintStream(log, true));
        try {
            run(imp, "Axial...", BUILT_IN);
            imp.getCalibration().pixelDepth = 0.8;
            run(imp, "Axial...", BUILT_IN);
        } finally {
            System.setOut(before);
        }
        assertTrue(
                log.toString().startsWith("deep-axial.tif: planes lie 10 pixels apart, and mdr axial was trained"),
                log.toString());
        assertEquals(1, log.toString().trim().split("\n").length);
    }

    @Test
    void replacedImagesCanBeTakenBack() {
        ImagePlus imp = Samples.image("r.tif", 8, 64, 48, 1, 1, 1);
        Object before = ((byte[]) imp.getProcessor().getPixels()).clone();
        ImagePlus expected = run(imp, "Denoise...", BUILT_IN);
        IJ.run(imp, "Denoise...", "replace");
        assertTrue(Samples.same(expected, imp));
        assertEquals(32, imp.getBitDepth());
        WindowManager.setTempCurrentImage(imp);
        ij.Undo.undo();
        assertArrayEquals((byte[]) before, (byte[]) imp.getProcessor().getPixels());
        ImagePlus stack = Samples.image("stack.tif", 8, 64, 48, 1, 2, 1);
        assertThrows(MdrException.class, () -> IJ.run(stack, "Denoise...", "replace"));
        assertThrows(MdrException.class, () -> Restore_.restore(imp, "denoise", "replace"));
    }

    @ParameterizedTest
    @CsvSource(delimiter = ';', value = {
        "Denoise...; model=[/no/such/file.onnx]; No such file",
        "Denoise...; modle=[built-in]; unknown option \"modle\"",
        "Denoise...; tile=12x; tile=12x: expected auto or",
        "Denoise...; tile=0; tile=0",
        "Denoise...; tile=-5; tile=-5",
        "Denoise...; tile=; has no value",
        "Denoise...; tile=1 tile=2; given twice",
        "Denoise...; tile=99999999999; tile=99999999999",
        "Denoise...; overlap=-1; overlap=-1",
        "Denoise...; memory=1; raise the limit",
        "Denoise...; memory=no; memory=no",
        "Denoise...; channel=2; channel=2",
        "Denoise...; channel=0; channel=0",
        "Denoise...; planes=some; expected all, current stack, current plane",
        "Denoise...; keep=yes; takes no value",
        "Denoise...; model=[built-in; is missing",
        "Denoise...; model=; has no value",
        "Axial...; model=[/no/such/file.onnx] ; Image > Properties",
        "Super-resolve...; model=[/no/such/file.onnx]; No such file",
        "Model Info...; model=[/no/such/file.onnx]; No such file",
        "Model Info...; tile=3; unknown option \"tile\"",
        "Restore Folder...; input=/no/such/folder output=/tmp/x; no such folder",
        "Restore Folder...; output=/tmp/x; input is missing",
        "Restore Folder...; input=/tmp output=/tmp/x task=sharpen; expected denoise",
    })
    void whatIsWrongIsAnErrorThatAScriptCatches(String command, String options, String message) {
        ImagePlus imp = Samples.image("e.tif", 8, 32, 32, 1, 1, 1);
        int before = WindowManager.getImageCount();
        MdrException failure = assertThrows(MdrException.class, () -> IJ.run(imp, command, options));
        assertTrue(failure.getMessage().startsWith(command + ": "), failure.getMessage());
        assertTrue(failure.getMessage().contains(message), failure.getMessage());
        assertFalse(imp.isLocked());
        assertEquals(before, WindowManager.getImageCount());
    }

    @Test
    void wrongImagesAreRefused() throws Exception {
        MdrException rgb = assertThrows(
                MdrException.class, () -> IJ.run(IJ.createImage("rgb", "RGB", 20, 20, 1), "Denoise...", BUILT_IN));
        assertTrue(rgb.getMessage().contains("Split Channels"), rgb.getMessage());
        WindowManager.setTempCurrentImage(null);
        Interpreter.batchMode = false;
        MdrException none = assertThrows(MdrException.class, () -> IJ.run("Denoise...", BUILT_IN));
        assertTrue(none.getMessage().contains("no image is open"), none.getMessage());
        Interpreter.batchMode = true;
        ImagePlus busy = Samples.image("busy", 8, 32, 32, 1, 1, 1);
        Thread other = new Thread(busy::lockSilently);
        other.start();
        other.join();
        MdrException locked = assertThrows(MdrException.class, () -> IJ.run(busy, "Denoise...", BUILT_IN));
        assertTrue(locked.getMessage().contains("locked"), locked.getMessage());
    }

    @Test
    void aMacroEndsAtAnError() {
        ImagePlus imp = Samples.image("macro.tif", 8, 32, 32, 1, 1, 1);
        WindowManager.setTempCurrentImage(imp);
        assertEquals("[aborted]", IJ.runMacro("run('Denoise...', 'tile=none'); return 'went on';"));
        assertEquals(
                "[aborted]",
                IJ.runMacro("call('org.mdr.fiji.Restore_.apply', 'tile=none'); return 'went on';"));
    }

    @Test
    void macrosAndTheirVariables() throws Exception {
        ImagePlus imp = Samples.image("macro.tif", 8, 64, 32, 1, 1, 1);
        String path = folder.resolve("mäcro image.tif").toString();
        new FileSaver(imp).saveAsTiff(path);
        String out = IJ.runMacro("setBatchMode(true); open('" + path + "'); size = 32; m = 'built-in';"
                + "run('Denoise...', 'model=&m tile=&size'); return getTitle() + bitDepth();");
        assertEquals("mäcro image-denoise.tif32", out);
        String model = model("version 2.0", TinyOnnx.mean3("denoise"));
        assertEquals(
                "mäcro image-denoise-denoise.tif",
                IJ.runMacro("m = '" + model + "'; run('Denoise...', 'model=&m'); return getTitle();"));
    }

    @Test
    void foldersGiveTheFilesOfTheCommandLine() throws Exception {
        Path in = Files.createDirectories(folder.resolve("ïn put"));
        Path out = folder.resolve("out put");
        ImagePlus a = Samples.image("a", 8, 50, 40, 1, 1, 1);
        ImagePlus b = Samples.image("b", 16, 50, 40, 2, 2, 1);
        new FileSaver(a).saveAsTiff(in.resolve("a.tif").toString());
        new FileSaver(b).saveAsTiff(in.resolve("b.TIFF").toString());
        Files.write(in.resolve("notes.txt"), new byte[3]);
        String options = "input=[" + in + "] output=[" + out + "]";
        assertEquals("2", RestoreFolder_.apply(options));
        assertTrue(Samples.same(Samples.commandLine(folder, a), IJ.openImage(out.resolve("a.tif").toString())));
        assertTrue(Samples.same(Samples.commandLine(folder, b), IJ.openImage(out.resolve("b.TIFF").toString())));
        assertEquals(2, Files.list(out).count());

        // What is there is left as it is, the other is restored.
        byte[] before = Files.readAllBytes(out.resolve("a.tif"));
        Files.delete(out.resolve("b.TIFF"));
        Files.setLastModifiedTime(out.resolve("a.tif"), FileTime.fromMillis(0));
        assertEquals("1", RestoreFolder_.apply(options + " skip"));
        assertEquals("0", RestoreFolder_.apply(options + " skip"));
        assertEquals(0, Files.getLastModifiedTime(out.resolve("a.tif")).toMillis());
        assertArrayEquals(before, Files.readAllBytes(out.resolve("a.tif")));
        assertTrue(Samples.same(Samples.commandLine(folder, b), IJ.openImage(out.resolve("b.TIFF").toString())));
        assertThrows(MdrException.class, () -> RestoreFolder_.apply(options + " skip overwrite"));

        Files.write(in.resolve("c.tif"), new byte[100]);
        MdrException failure = assertThrows(MdrException.class, () -> IJ.run("Restore Folder...", options));
        assertTrue(failure.getMessage().contains("3 of 3") && failure.getMessage().contains("exists"));
        failure = assertThrows(MdrException.class, () -> IJ.run("Restore Folder...", options + " overwrite keep"));
        assertTrue(failure.getMessage().contains("1 of 3 files could not be restored:\nc.tif"), failure.getMessage());
        assertEquals(8, IJ.openImage(out.resolve("a.tif").toString()).getBitDepth());
        assertEquals(2, Files.list(out).count());
        assertThrows(
                MdrException.class, () -> RestoreFolder_.apply("input=[" + in + "] output=[" + in + "] overwrite"));
    }

    /** Of files that ImageJ reads for ever, in part, wrongly or not at all, each is named, and the good ones are restored. */
    @Test
    void badFilesAmongGoodOnes() throws Exception {
        Path in = Files.createDirectories(folder.resolve("in"));
        Path out = folder.resolve("out");
        new FileSaver(Samples.image("a", 16, 50, 40, 1, 3, 1)).saveAsTiff(in.resolve("a good.tif").toString());
        byte[] tiff = Files.readAllBytes(in.resolve("a good.tif"));
        Files.copy(in.resolve("a good.tif"), in.resolve("z good.tif"));
        ByteOrder order = tiff[0] == 'I' ? ByteOrder.LITTLE_ENDIAN : ByteOrder.BIG_ENDIAN;
        ByteBuffer bytes = ByteBuffer.wrap(tiff.clone()).order(order);
        int fields = bytes.getShort(8);
        Files.write(in.resolve("circle.tif"), bytes.putInt(10 + 12 * fields, 8).array());
        bytes = ByteBuffer.wrap(tiff.clone()).order(order);
        Files.write(in.resolve("endless.tif"), bytes.putInt(10 + 12 * 7 + 4, 1 << 26).array());
        Files.write(in.resolve("cut off.tif"), java.util.Arrays.copyOf(tiff, tiff.length - 1000));
        Files.write(in.resolve("empty.tif"), new byte[0]);
        // A length of ImageJ's own data that is below zero, for which ImageJ has no exception of its own.
        bytes = ByteBuffer.wrap(tiff.clone()).order(order);
        for (int i = 10; i < 10 + 12 * fields; i += 12) {
            if (bytes.getShort(i) == (short) 50838) {
                bytes.putInt(bytes.getInt(i + 8) + 4, -7);
            }
        }
        Files.write(in.resolve("negative.tif"), bytes.array());
        new FileSaver(Samples.image("one", 8, 50, 40, 1, 1, 1)).saveAsTiff(in.resolve("half.tif").toString());
        byte[] one = Files.readAllBytes(in.resolve("half.tif"));
        Files.write(in.resolve("half.tif"), java.util.Arrays.copyOf(one, one.length / 2));
        byte[] deflated = Samples.deflated(50, 40);
        Files.write(in.resolve("deflated.tif"), deflated);
        Files.write(in.resolve("deflated half.tif"), java.util.Arrays.copyOf(deflated, deflated.length - 500));
        deflated[deflated.length - 500] ^= 1;
        Files.write(in.resolve("deflated wrong.tif"), deflated);
        MdrException failure = assertThrows(MdrException.class, () -> assertTimeoutPreemptively(
                Duration.ofSeconds(20), () -> RestoreFolder_.apply("input=[" + in + "] output=[" + out + "]")));
        String[] lines = failure.getMessage().split("\n");
        String[] expected = {
            "8 of 11 files", "circle.tif: damaged TIFF: its directories run in a loop", "cut off.tif: truncated",
            "deflated half.tif: truncated", "deflated wrong.tif: damaged TIFF: Deflate data", "empty.tif: the file is empty",
            "endless.tif: truncated", "half.tif: truncated", "negative.tif: ImageJ cannot open it",
        };
        assertEquals(expected.length, lines.length, failure.getMessage());
        for (int i = 0; i < lines.length; i++) {
            assertTrue(lines[i].contains(expected[i]), lines[i]);
        }
        assertEquals(3, Files.list(out).count());
        assertFalse(IJ.redirectingErrorMessages());

        Path png = in.resolve("a.png");
        new FileSaver(Samples.image("a", 8, 20, 20, 1, 1, 1)).saveAsPng(png.toString());
        failure = assertThrows(
                MdrException.class, () -> RestoreFolder_.apply("input=[" + png + "] output=[" + out + "]"));
        assertTrue(failure.getMessage().contains("no .tif"), failure.getMessage());
    }

    /** Pressed while a file is being saved. */
    @Test
    void escapeBetweenFilesCounts() {
        ImageJProgress progress = new ImageJProgress("first");
        assertTrue(progress.update(1, 1));
        IJ.setKeyDown(java.awt.event.KeyEvent.VK_ESCAPE);
        progress.next("second");
        assertFalse(progress.update(0, 1));
        IJ.resetEscape();
    }

    /** Two scripts at once, each with an image and options of its own. */
    @Test
    void twoScriptsAtOnce() throws Exception {
        ImagePlus[] images = {Samples.image("one", 8, 60, 40, 1, 2, 1), Samples.image("two", 16, 40, 70, 1, 1, 1)};
        String[] options = {"tile=32 keep", "tile=48"};
        ImagePlus[] expected = new ImagePlus[2];
        Throwable[] failures = new Throwable[2];
        Thread[] scripts = new Thread[2];
        for (int i = 0; i < 2; i++) {
            int me = i;
            expected[i] = Restore_.restore(images[i], "denoise", options[i]);
            scripts[i] = new Thread(() -> {
                try {
                    for (int n = 0; n < 10; n++) {
                        IJ.run(images[me], "Denoise...", options[me]);
                        MdrException wrong = assertThrows(
                                MdrException.class, () -> IJ.run(images[me], "Denoise...", "tile=script" + me));
                        assertTrue(wrong.getMessage().contains("script" + me), wrong.getMessage());
                    }
                } catch (Throwable failure) {
                    failures[me] = failure;
                }
            });
            scripts[i].start();
        }
        for (Thread script : scripts) {
            script.join(60_000);
            assertFalse(script.isAlive());
        }
        assertArrayEquals(new Throwable[2], failures);
        int[] ids = WindowManager.getIDList();
        assertEquals(20, ids.length);
        // ImageJ numbers images without a lock: two of two threads may share a number, by which one of them is found.
        int[] found = new int[2];
        for (int id : Arrays.stream(ids).distinct().toArray()) {
            ImagePlus result = WindowManager.getImage(id);
            int me = result.getTitle().startsWith("one") ? 0 : 1;
            assertTrue(Samples.same(expected[me], result));
            found[me]++;
        }
        assertTrue(found[0] <= 10 && found[1] <= 10, Arrays.toString(found));
    }

    @Test
    void factsForMacros() throws Exception {
        assertTrue(ModelInfo_.apply("").contains("mdr denoise"));
        String axial = ModelInfo_.apply("model=axial");
        assertTrue(axial.contains("mdr axial") && !axial.contains("mdr denoise"), axial);
        assertTrue(axial.contains("\nnormalization: kind percentile, low 2, high 99.8\n"), axial);
        String model = model("some model.onnx", TinyOnnx.mean3("axial"));
        assertTrue(ModelInfo_.apply("model=[" + model + "]").contains("axial"));
        // No display is needed for these either.
        IJ.run("Model Info...", "model=[" + model + "]");
    }

    @Test
    void aModelForAnotherTaskIsRefused() throws Exception {
        String model = model("axial.onnx", TinyOnnx.mean3("axial"));
        ImagePlus imp = Samples.image("t.tif", 8, 32, 32, 1, 1, 1);
        MdrException wrong = assertThrows(
                MdrException.class, () -> IJ.run(imp, "Denoise...", "model=[" + model + "]"));
        assertTrue(wrong.getMessage().contains("is for axial"), wrong.getMessage());
    }
}
