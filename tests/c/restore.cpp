// The same as restore.c in C++: a model that frees itself, statuses as exceptions, a callback that cancels.
#include <mdr.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

void check(MdrStatus_t status)
{
    if (status != MDR_STATUS_OK)
        throw std::runtime_error(mdr_last_error());
}

struct Free {
    void operator()(MdrModel_t *model) const { mdr_model_free(model); }
};
using Model = std::unique_ptr<MdrModel_t, Free>;

Model load(const char *path)
{
    MdrModel_t *model = nullptr;
    check(path ? mdr_model_load(path, &model) : mdr_model_builtin("denoise", &model));
    return Model(model);
}

std::string facts(const MdrModel_t *model)
{
    std::size_t needed = 0;
    if (mdr_model_facts(model, nullptr, 0, &needed) != MDR_STATUS_BUFFER_TOO_SMALL)
        throw std::runtime_error(mdr_last_error());
    std::string json(needed, '\0');
    check(mdr_model_facts(model, &json[0], json.size(), nullptr));
    json.pop_back(); // the final NUL
    return json;
}

std::vector<float> restore(const MdrModel_t *model, const std::vector<std::uint16_t> &noisy, const std::size_t *shape)
{
    std::size_t result[2];
    check(mdr_output_shape(model, "YX", shape, nullptr, result));
    std::vector<float> restored(result[0] * result[1]);
    check(mdr_restore(model, noisy.data(), MDR_PIXEL_TYPE_U16, "YX", shape, nullptr, nullptr, nullptr, nullptr,
                      restored.data(), MDR_PIXEL_TYPE_F32, restored.size()));
    return restored;
}

extern "C" std::int32_t stop(std::uint64_t, std::uint64_t, void *calls)
{
    ++*static_cast<int *>(calls);
    return 0;
}

} // namespace

int main(int argc, char **argv)
try {
    if (mdr_abi_version() != MDR_ABI_VERSION)
        throw std::runtime_error("not the library that mdr.h describes");
    const std::size_t shape[] = {64, 96}; // Y, X
    std::vector<std::uint16_t> noisy(shape[0] * shape[1]);
    for (std::size_t i = 0; i < noisy.size(); i++)
        noisy[i] = static_cast<std::uint16_t>(100 + 400 * (i / shape[1] / 16 % 2) + std::rand() % 100);

    Model model;
    for (int i = 0; i < 5; i++) // each replaces and frees the one before
        model = load(argc > 1 ? argv[1] : nullptr);
    if (facts(model.get()).find("\"sha256\":\"") == std::string::npos)
        throw std::runtime_error("facts without sha256");

    const std::vector<float> restored = restore(model.get(), noisy, shape);
    std::vector<float> beside;
    std::thread other([&] { beside = restore(model.get(), noisy, shape); });
    const bool same = restore(model.get(), noisy, shape) == restored;
    other.join();
    if (!same || beside != restored)
        throw std::runtime_error("two threads that share a model disagree");

    int calls = 0;
    std::vector<float> output(restored.size());
    const MdrStatus_t status =
        mdr_restore(model.get(), noisy.data(), MDR_PIXEL_TYPE_U16, "YX", shape, nullptr, nullptr, stop, &calls,
                    output.data(), MDR_PIXEL_TYPE_F32, output.size());
    if (status != MDR_STATUS_CANCELLED || calls != 1)
        throw std::runtime_error("not cancelled at once");

    double mean = 0;
    for (const float sample : restored)
        mean += sample / static_cast<double>(restored.size());
    std::printf("%zu pixels, mean %.2f\n", restored.size(), mean);
    return 0;
} catch (const std::exception &error) {
    std::fprintf(stderr, "mdr: %s\n", error.what());
    return 1;
}
