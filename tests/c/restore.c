/* Restores a simulated noisy plane: restore [MODEL.onnx], by default with the built-in model. */
#include <mdr.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static int32_t progress(uint64_t done, uint64_t total, void *user)
{
    (void)user;
    fprintf(stderr, "%u %%\n", (unsigned)(100 * done / total));
    return 1; /* 0 cancels */
}

int main(int argc, char **argv)
{
    const size_t shape[] = {64, 96}; /* Y, X */
    size_t result[2], i;
    double mean = 0;
    uint16_t *noisy = malloc(shape[0] * shape[1] * sizeof *noisy);
    float *restored = NULL;
    MdrModel_t *model = NULL;
    MdrStatus_t status;

    for (i = 0; noisy != NULL && i < shape[0] * shape[1]; i++)
        noisy[i] = (uint16_t)(100 + 400 * (i / shape[1] / 16 % 2) + (size_t)rand() % 100); /* stripes, noise */

    if (mdr_abi_version() != MDR_ABI_VERSION)
        return 2; /* not the library that mdr.h describes */
    status = argc > 1 ? mdr_model_load(argv[1], &model) : mdr_model_builtin("denoise", &model);
    if (status == MDR_STATUS_OK)
        status = mdr_output_shape(model, "YX", shape, NULL, result);
    if (status == MDR_STATUS_OK) {
        restored = malloc(result[0] * result[1] * sizeof *restored);
        status = mdr_restore(model, noisy, MDR_PIXEL_TYPE_U16, "YX", shape, NULL, NULL, progress, NULL, restored,
                             MDR_PIXEL_TYPE_F32, result[0] * result[1]);
    }
    if (status == MDR_STATUS_OK) {
        for (i = 0; i < result[0] * result[1]; i++)
            mean += restored[i];
        printf("%u x %u pixels, mean %.2f\n", (unsigned)result[0], (unsigned)result[1],
               mean / (double)(result[0] * result[1]));
    } else {
        fprintf(stderr, "mdr: %s\n", mdr_last_error());
    }
    mdr_model_free(model);
    free(restored);
    free(noisy);
    return status == MDR_STATUS_OK ? 0 : 1;
}
