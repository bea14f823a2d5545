"""The main job from end to end: the order of its steps, and its exit code."""

from pathlib import Path

import numpy as np

from deel_lip_tf._files.writing import whole_file
from deel_lip_tf.cli.arguments import (
    FAILURE,
    INTERRUPTED,
    SUCCESS,
    require_extra,
    require_tensorflow,
    writable_folder,
)
from deel_lip_tf.cli.quickstart import attacks, data, export, figures, network, report

ATTACKED_IMAGES = 500


def run(source: str, epochs: int, loss: str, out: str, seed: int) -> int:
    """Trains, proves, certifies, attacks, exports and reports.

    Args:
        source: what `data.load` takes.
        epochs: at least 1.
        loss: a key of `network.LOSS_ARGUMENTS`.
        out: folder of the files; created if needed.
        seed: of the weights, of the order of the batches and of the attacks.

    Returns:
        0; 1 if a certificate is broken or the reloaded SavedModel differs; 130 if Ctrl-C ended
        the training early and all else is well.

    Raises:
        BadInput: before training, for anything that would make the job fail later.
    """
    require_tensorflow("quickstart attacks and exports")
    require_extra("demo")
    dataset = data.load(source)
    folder = writable_folder(out)

    import keras

    keras.utils.set_random_seed(seed)
    model = network.build(dataset, loss, epochs)
    finished = network.train(model, dataset, epochs)
    settings = network.describe(loss, epochs, seed, finished)
    results = _examine(model, dataset, folder, seed, settings)

    text = report.page(results)
    with whole_file(folder / "report.txt") as file:
        file.write(f"{text}\n".encode())
    print(f"\n{text}")
    if results.attacked.broken or not results.comparison.equal:
        return FAILURE
    return SUCCESS if finished else INTERRUPTED


def _examine(model, dataset: data.Dataset, folder: Path, seed: int, settings: str):
    """Everything after training; writes all files but the page itself."""
    import deel_lip_tf
    from deel_lip_tf.bounds import lipschitz_bound
    from deel_lip_tf.certificates import certify, export_certificate

    exported = model.vanilla_export()
    certificate = certify(model, dataset.x_test, dataset.y_test)
    attacked = _attack(model, exported, dataset, certificate, seed)
    curves, pictures = folder / "certificates.png", folder / "adversarials.png"
    figures.draw_certificates(attacked, curves)
    figures.draw_adversarials(attacked, pictures)
    comparison = export.export_and_compare(model, exported, folder / "saved_model", dataset.x_test)
    if comparison.equal:
        export_certificate(exported, comparison.folder)
    shape = "x".join(map(str, dataset.image_shape))
    return report.Results(
        title=f"deel_lip_tf {deel_lip_tf.__version__} on {dataset.name}: "
        f"{len(dataset.x_train)} training images {shape}, {dataset.classes} classes",
        settings=settings,
        bound=lipschitz_bound(model),
        test_images=len(dataset.x_test),
        clean_accuracy=float(np.mean(certificate.label == dataset.y_test)),
        certified_accuracy=list(certificate.certified_accuracy(report.RADII)),
        attacked=attacked,
        comparison=comparison,
        files=[curves, pictures, folder / "saved_model", folder / "report.txt"],
    )


def _attack(model, exported, dataset: data.Dataset, certificate, seed: int) -> report.Attacked:
    """Draws test images and attacks those that are classified correctly."""
    import keras

    total = len(dataset.x_test)
    drawn = np.sort(np.random.default_rng(seed).permutation(total)[: min(total, ATTACKED_IMAGES)])
    correct = drawn[certificate.label[drawn] == dataset.y_test[drawn]]
    images, radius = dataset.x_test[correct], certificate.radius[correct]
    found = []
    if len(correct):
        # The attacks start from the same random numbers however long the training was.
        keras.utils.set_random_seed(seed)
        found = attacks.run_attacks(model, exported, images, dataset.y_test[correct])
    return report.Attacked(len(drawn), images, radius, found, dataset.y_test[correct])
