"""Certificates of exported files: what is proven, and that the file computes it."""

from deel_lip_tf.certificates.exported.certificate import (
    ExportCertificate,
    export_certificate,
    load,
)

__all__ = ["ExportCertificate", "export_certificate", "load"]
