"""The page that shows trained runs live (--mode=demo).

classifier.py and detector.py say what a network makes of an image, line.py what is
known of all networks and of the papers' claims. uploads.py and drawing.py turn what a
page sends into stored images, sheets.py makes pictures. They need no server.
site.py answers the browser's requests, serve.py runs it, and static/ has the page.
"""
