package org.mdr.fiji;

import ij.IJ;
import ij.ImageJ;
import ij.ImagePlus;
import ij.Menus;
import ij.WindowManager;
import ij.gui.GenericDialog;
import ij.gui.ImageWindow;
import ij.io.FileSaver;
import ij.plugin.frame.Recorder;
import java.awt.Button;
import java.awt.Checkbox;
import java.awt.Choice;
import java.awt.Component;
import java.awt.Container;
import java.awt.Dialog;
import java.awt.EventQueue;
import java.awt.Menu;
import java.awt.MenuBar;
import java.awt.Rectangle;
import java.awt.Robot;
import java.awt.TextField;
import java.awt.Window;
import java.awt.event.ActionEvent;
import java.awt.event.ItemEvent;
import java.awt.event.KeyEvent;
import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.function.BooleanSupplier;
import javax.imageio.ImageIO;

/**
 * A person at ImageJ with a display: looks into the menu, fills in the dialog, watches the preview, presses Escape. It
 * knows the plug-in by its menu items alone, which ImageJ has found in a jar. Prints PASS at the end.
 */
public final class Probe {
    private Probe() {}

    public static void main(String[] arguments) throws Exception {
        int status = 1;
        try {
            new ImageJ();
            menu();
            record();
            recordFolder();
            replace();
            dialogs(arguments.length > 0 ? new File(arguments[0]) : null);
            escape();
            errors();
            System.out.println("PASS");
            status = 0;
        } catch (Throwable failure) {
            failure.printStackTrace(System.out);
            for (Window window : Window.getWindows()) {
                System.out.println((window.isShowing() ? "showing: " : "hidden: ") + window);
            }
        }
        Runtime.getRuntime().halt(status);
    }

    private static void check(boolean right, Object what) {
        if (!right) {
            throw new AssertionError(what);
        }
    }

    private static void await(String what, BooleanSupplier condition) {
        for (long end = System.currentTimeMillis() + 30_000; !condition.getAsBoolean(); IJ.wait(20)) {
            check(System.currentTimeMillis() < end, "waited in vain: " + what);
        }
    }

    private static void menu() {
        MenuBar bar = Menus.getMenuBar();
        StringBuilder items = new StringBuilder();
        for (int i = 0; i < bar.getMenuCount(); i++) {
            Menu menu = bar.getMenu(i);
            for (int j = 0; j < menu.getItemCount(); j++) {
                if (menu.getLabel().equals("Plugins") && menu.getItem(j).getLabel().equals("Restore")) {
                    Menu restore = (Menu) menu.getItem(j);
                    for (int k = 0; k < restore.getItemCount(); k++) {
                        items.append(restore.getItem(k).getLabel()).append('|');
                    }
                }
            }
        }
        check(items.toString().equals("Denoise...|Axial...|Super-resolve...|-|Restore Folder...|Model Info...|"), items);
    }

    private static GenericDialog dialog(String title) {
        GenericDialog[] found = new GenericDialog[1];
        await("dialog " + title, () -> {
            for (Window window : Window.getWindows()) {
                if (window.isShowing() && window instanceof GenericDialog
                        && ((Dialog) window).getTitle().equals(title)) {
                    found[0] = (GenericDialog) window;
                }
            }
            return found[0] != null;
        });
        // A modal dialog that is closed between being shown and waiting would wait for ever; no person is that quick.
        String waiting = "java.awt.WaitDispatchSupport";
        await("wait for " + title, () -> !found[0].isModal() || Thread.getAllStackTraces().values().stream()
                .flatMap(Arrays::stream).anyMatch(frame -> frame.getClassName().equals(waiting)));
        return found[0];
    }

    private static <T extends Component> T find(Container container, Class<T> type, String label) {
        for (Component component : container.getComponents()) {
            if (type.isInstance(component)
                    && (component instanceof Button ? ((Button) component).getLabel() : ((Checkbox) component).getLabel())
                            .trim().equals(label)) {
                return type.cast(component);
            }
            if (component instanceof Container) {
                T inside = find((Container) component, type, label);
                if (inside != null) {
                    return inside;
                }
            }
        }
        return null;
    }

    private static void press(GenericDialog dialog, String label) {
        Button button = find(dialog, Button.class, label);
        EventQueue.invokeLater(() -> button.dispatchEvent(
                new ActionEvent(button, ActionEvent.ACTION_PERFORMED, label)));
        await("end of " + dialog.getTitle(), () -> !dialog.isShowing());
    }

    private static void tick(GenericDialog dialog, String label, boolean state) {
        Checkbox[] found = new Checkbox[1];
        // ImageJ calls the box of a preview "wait..." until all of it is there.
        await("box " + label, () -> (found[0] = find(dialog, Checkbox.class, label)) != null);
        Checkbox box = found[0];
        EventQueue.invokeLater(() -> {
            box.setState(state);
            box.dispatchEvent(new ItemEvent(
                    box, ItemEvent.ITEM_STATE_CHANGED, box, state ? ItemEvent.SELECTED : ItemEvent.DESELECTED));
        });
    }

    /** The image that there is beside so many others. */
    private static ImagePlus result(int others) {
        await("result", () -> WindowManager.getImageCount() > others);
        int[] ids = WindowManager.getIDList();
        return WindowManager.getImage(ids[ids.length - 1]);
    }

    /** What the dialog did is recorded, and the recorded line does the same. */
    private static void record() {
        new Recorder();
        ImagePlus imp = Samples.image("two channels.tif", 16, 80, 60, 2, 3, 2);
        imp.show();
        imp.setPosition(1, 2, 2);
        IJ.doCommand("Denoise...");
        GenericDialog dialog = dialog("Denoise...");
        ((Choice) dialog.getChoices().get(0)).select("current stack");
        ((Choice) dialog.getChoices().get(1)).select("2");
        ((TextField) dialog.getStringFields().get(1)).setText("48");
        ((Checkbox) dialog.getCheckboxes().get(0)).setState(true);
        ((Checkbox) dialog.getCheckboxes().get(1)).setState(true);
        press(dialog, "OK");
        ImagePlus first = result(1);
        check(first.getBitDepth() == 16 && first.getNSlices() == 3 && first.getStackSize() == 3, first);
        await("recording", () -> Recorder.getInstance().getText().contains("Denoise..."));
        String line = "";
        for (String recorded : Recorder.getInstance().getText().split("\n")) {
            line = recorded.contains("Denoise...") ? recorded : line;
        }
        check(line.equals("run(\"Denoise...\", \"model=built-in planes=[current stack] channel=2 tile=48 overlap=auto"
                + " memory=auto ensemble keep\");"), line);
        IJ.selectWindow(imp.getID());
        IJ.runMacro(line);
        ImagePlus second = result(2);
        check(Samples.same(first, second), "replay of " + line);
        check(second.getTitle().equals("two channels-denoise-1.tif"), second);
        Recorder.getInstance().close();
        closeAll();
    }

    /** The dialogs without an image are recorded, too. */
    private static void recordFolder() throws Exception {
        new Recorder();
        Path in = Files.createTempDirectory("in put");
        Path out = in.resolve("out");
        ImagePlus imp = Samples.image("a.tif", 8, 60, 40, 1, 1, 1);
        new FileSaver(imp).saveAsTiff(in.resolve("a.tif").toString());
        IJ.doCommand("Restore Folder...");
        GenericDialog dialog = dialog("Restore Folder...");
        ((TextField) dialog.getStringFields().get(0)).setText(in.toString());
        ((TextField) dialog.getStringFields().get(1)).setText(out.toString());
        ((Choice) dialog.getChoices().get(0)).select("super-resolve");
        ((Checkbox) dialog.getCheckboxes().get(1)).setState(true);
        ((Checkbox) dialog.getCheckboxes().get(3)).setState(true);
        press(dialog, "OK");
        String line = "run(\"Restore Folder...\", \"input=[" + in + "] output=[" + out
                + "] task=super-resolve model=built-in channel=all tile=auto overlap=auto memory=auto keep skip\");";
        await("recording", () -> Recorder.getInstance().getText().contains("Restore Folder"));
        check(Recorder.getInstance().getText().contains(line), Recorder.getInstance().getText());
        ImagePlus first = IJ.openImage(out.resolve("a.tif").toString());
        check(first.getBitDepth() == 8 && !Samples.same(imp, first), first);
        Files.delete(out.resolve("a.tif"));
        IJ.runMacro(line);
        check(Samples.same(first, IJ.openImage(out.resolve("a.tif").toString())), "replay of " + line);

        IJ.doCommand("Model Info...");
        press(dialog("Model Info..."), "OK");
        await("recording", () -> Recorder.getInstance().getText().contains("Model Info"));
        check(
                Recorder.getInstance().getText().contains("run(\"Model Info...\", \"model=built-in\");"),
                Recorder.getInstance().getText());
        Recorder.getInstance().close();
    }

    /** An image that was replaced, as the dialog was told, is brought back by Edit > Undo. */
    private static void replace() {
        ImagePlus imp = Samples.image("r.tif", 16, 60, 40, 1, 1, 1);
        short[] before = ((short[]) imp.getProcessor().getPixels()).clone();
        imp.show();
        IJ.doCommand("Denoise...");
        GenericDialog dialog = dialog("Denoise...");
        ((Checkbox) dialog.getCheckboxes().get(2)).setState(true);
        press(dialog, "OK");
        await("result", () -> imp.getBitDepth() == 32 && !imp.isLocked());
        check(WindowManager.getImageCount() == 1, "no other window");
        IJ.doCommand("Undo");
        await("undo", () -> imp.getBitDepth() == 16);
        check(Arrays.equals(before, (short[]) imp.getProcessor().getPixels()), "undone");
        closeAll();
    }

    private static void closeAll() {
        for (int id : WindowManager.getIDList()) {
            ImagePlus imp = WindowManager.getImage(id);
            imp.changes = false;
            imp.close();
        }
    }

    /** The preview shows the plane of the result, and is taken back. */
    private static void dialogs(File screenshot) throws Exception {
        ImagePlus imp = Samples.image("cells.tif", 8, 320, 300, 1, 4, 1);
        imp.show();
        imp.setSlice(3);
        byte[] before = ((byte[]) imp.getProcessor().getPixels()).clone();
        IJ.run(imp, "Denoise...", "keep");
        byte[] restored = (byte[]) WindowManager.getCurrentImage().getStack().getPixels(3);
        WindowManager.getCurrentImage().close();
        IJ.selectWindow(imp.getID());
        IJ.doCommand("Denoise...");
        GenericDialog dialog = dialog("Denoise...");
        tick(dialog, "Preview", true);
        await("preview", () -> Arrays.equals(restored, (byte[]) imp.getProcessor().getPixels()));
        if (screenshot != null) {
            ImageWindow window = imp.getWindow();
            window.setLocation(40, 150);
            IJ.getInstance().setLocation(40, 20);
            dialog.setLocation(420, 150);
            IJ.wait(800);
            Rectangle area = window.getBounds().union(dialog.getBounds()).union(IJ.getInstance().getBounds());
            ImageIO.write(new Robot().createScreenCapture(area), "png", screenshot);
        }
        tick(dialog, "Preview", false);
        await("end of preview", () -> Arrays.equals(before, (byte[]) imp.getProcessor().getPixels()));
        tick(dialog, "Preview", true);
        await("preview", () -> Arrays.equals(restored, (byte[]) imp.getProcessor().getPixels()));
        press(dialog, "Cancel");
        await("undone preview", () -> Arrays.equals(before, (byte[]) imp.getProcessor().getPixels()));
        await("unlocked", () -> !imp.isLocked());
        check(WindowManager.getImageCount() == 1, "no result after Cancel");

        // OK waits until the fields are right.
        IJ.doCommand("Super-resolve...");
        GenericDialog other = dialog("Super-resolve...");
        ((TextField) other.getStringFields().get(1)).setText("many");
        IJ.wait(300);
        check(other.isShowing(), "a dialog that asks");
        press(other, "Cancel");
        closeAll();
    }

    private static void escape() throws Exception {
        ImagePlus imp = Samples.image("large.tif", 8, 2000, 2000, 1, 1, 1);
        imp.show();
        Throwable[] thrown = new Throwable[1];
        Thread script = new Thread(() -> {
            try {
                IJ.run(imp, "Denoise...", "tile=64");
            } catch (Throwable failure) {
                thrown[0] = failure;
            }
        });
        long start = System.currentTimeMillis();
        script.start();
        await("start", imp::isLocked);
        IJ.wait(300);
        IJ.getInstance().keyPressed(new KeyEvent(
                imp.getWindow().getCanvas(), KeyEvent.KEY_PRESSED, start, 0, KeyEvent.VK_ESCAPE, (char) 27));
        script.join(10_000);
        check(!script.isAlive(), "still runs " + (System.currentTimeMillis() - start) + " ms after its start");
        check(thrown[0] != null && "Macro canceled".equals(thrown[0].getMessage()), thrown[0]);
        check(WindowManager.getImageCount() == 1 && !imp.isLocked(), "no result after Escape");
        IJ.resetEscape();
        closeAll();
    }

    /** A person gets a dialog, a script an exception, and a macro an end, none of them something that waits. */
    private static void errors() {
        ImagePlus rgb = IJ.createImage("rgb", "RGB", 50, 40, 1);
        rgb.show();
        IJ.doCommand("Denoise...");
        Dialog[] message = new Dialog[1];
        await("message", () -> {
            for (Window window : Window.getWindows()) {
                if (window.isShowing() && window instanceof Dialog) {
                    message[0] = (Dialog) window;
                }
            }
            return message[0] != null;
        });
        check(message[0].getTitle().equals("Denoise..."), message[0]);
        message[0].dispose();
        String failure = "";
        try {
            IJ.run(rgb, "Denoise...", "model=[built-in]");
        } catch (RuntimeException caught) {
            failure = caught.getMessage();
        }
        check(failure.contains("RGB"), failure);
        check("[aborted]".equals(IJ.runMacro("run('Denoise...', 'nonsense'); return 'went on';")), "macro went on");
        closeAll();
    }
}
